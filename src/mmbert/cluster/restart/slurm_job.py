"""The Slurm job that this process runs in: its allocation, its nodes' states, its requeue.

What cannot be asked, because the controller is busy for example, is treated as unknown: nothing is
excluded or given up on the strength of a missing answer.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mmbert.command_line.environment import given_variables, integer
from mmbert.errors import LauncherError

COMMAND_SECONDS = 60
PROBE_SECONDS = 120
PROBES_AT_ONCE = 16
RUNNING = "RUNNING"
# States of `sinfo`, without their suffixes, of a node that no task may be started on again.
_UNUSABLE = frozenset(
    ("down", "drained", "draining", "fail", "failing", "error", "unknown", "not_responding")
)


@dataclass(frozen=True)
class Allocation:
    """Nodes of the job, and the tasks that it may run on each."""

    hosts: tuple[str, ...]
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_node: int
    tasks_requested: bool = False
    """Whether the tasks of a node were requested; Slurm then counts tasks for the whole job."""
    cpus_requested: int | None = None
    """CPUs of a task that were requested; None: all of the node, divided by its tasks."""

    @property
    def tasks(self) -> int:
        """Tasks on all nodes."""
        return len(self.hosts) * self.tasks_per_node

    @property
    def cpus_per_task(self) -> int:
        """CPUs of a task."""
        return self.cpus_requested or self.cpus_per_node // self.tasks_per_node


def allocation_from_env(environment: Mapping[str, str], hosts: Sequence[str]) -> Allocation:
    """Return the allocation that Slurm's variables describe: one task per GPU, or those requested.

    Args:
        hosts: names of the job's nodes, in Slurm's order.

    Raises:
        LauncherError: the tasks that were requested do not fit the nodes.
    """
    environment = given_variables(environment)
    # --exclusive by itself gives all GPUs of a node; "h100:8" names their type.
    given = environment.get("SLURM_GPUS_PER_NODE") or environment.get("SLURM_GPUS_ON_NODE", "0")
    gpus = integer({"GPUs of a node": given.rpartition(":")[2]}, "GPUs of a node", 0)
    per_node = integer(environment, "SLURM_NTASKS_PER_NODE", gpus or 1, minimum=1)
    if gpus and per_node != gpus:
        raise LauncherError(
            f"{per_node} task(s) but {gpus} GPU(s) on each node: every GPU needs its own task",
            remedy=f"omit --ntasks-per-node, or give --gpus-per-node={per_node}",
        )
    world = len(hosts) * per_node
    # With --ntasks-per-node Slurm counts for the nodes that were asked for, not those that it gave.
    tasks = world
    if "SLURM_NTASKS_PER_NODE" not in environment:
        tasks = integer(environment, "SLURM_NTASKS", world, minimum=1)
    if tasks != world:
        raise LauncherError(
            f"{tasks} tasks requested, but {len(hosts)} node(s) × {per_node} = {world}",
            remedy="give --nodes with --gpus-per-node or --ntasks-per-node, not --ntasks",
        )
    cpus = integer(environment, "SLURM_CPUS_ON_NODE", minimum=1)
    if cpus < per_node:
        raise LauncherError(
            f"{cpus} CPU(s) on a node for {per_node} tasks",
            remedy="request --cpus-per-task=1 or more",
        )
    requested = "SLURM_NTASKS_PER_NODE" in environment
    per_task = integer(environment, "SLURM_CPUS_PER_TASK", 0) or None
    return Allocation(tuple(hosts), per_node, gpus, cpus, requested, per_task)


class SlurmJob:
    """The job of this process, by Slurm's own commands."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.id = environment["SLURM_JOB_ID"]
        # A task of an array is named by both numbers: the last one's own is the whole array's.
        array, index = (environment.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
        self._named = f"{array}_{index}" if array and index else self.id
        self.name = environment.get("SLURM_JOB_NAME", "job")
        restart = environment.get("SLURM_RESTART_COUNT", "")
        self.restart = int(restart) if restart.isdecimal() else 0
        self._node_list = environment.get("SLURM_JOB_NODELIST", "")

    def hosts(self) -> tuple[str, ...]:
        """Return the names of the job's nodes. Raises LauncherError if Slurm does not tell."""
        found = _host_names(self._node_list)
        if not found:
            raise LauncherError(
                f"`scontrol show hostnames {self._node_list}` names no node",
                remedy="check that scontrol works on the compute nodes",
            )
        return tuple(found)

    def field(self, name: str) -> str | None:
        """Return a field of `scontrol show job`, such as EndTime; None if it is not known."""
        found = re.search(rf"\b{name}=(\S*)", _answer("scontrol", "show", "job", self._named) or "")
        return found[1] if found else None

    def state(self) -> str | None:
        """Return the state that Slurm has the job in, such as RUNNING; None if it is not known."""
        for attempt in range(3):  # the controller may be busy
            if attempt:
                time.sleep(5)
            found = _answer("squeue", "--noheader", f"--jobs={self._named}", "--format=%T")
            if found is not None:
                return found.strip() or None
        return None

    def taken_away(self) -> str | None:
        """Return the state of a job that Slurm no longer counts as running, else None.

        Its user cancelled it, or a node died (srun may then report success).
        """
        state = self.state()
        return None if state in (None, RUNNING) else state

    def is_preempted(self) -> bool:
        """Return whether Slurm is preempting this start. It does not always signal the script."""
        preempted, started = self.field("PreemptTime"), self.field("StartTime")
        return "T" in (preempted or "") and (preempted or "") >= (started or "")

    def most_nodes(self) -> int | None:
        """Return the largest number of nodes that the job asked for; None if it is not known."""
        found = _answer("squeue", "--noheader", f"--jobs={self._named}", "--Format=MaxNodes:20")
        return int(found) if found and found.strip().isdecimal() else None

    def requeue(self) -> bool:
        """Have Slurm put this job back into the queue; return whether it did."""
        for attempt in range(3):  # the controller may be busy, or answer too late
            if attempt:
                time.sleep(5)
            if _answer("scontrol", "requeue", self._named) is not None or self.taken_away():
                return True
        return False

    def excluded(self) -> list[str]:
        """Return the nodes that the job excludes; none if they are not known."""
        found = self.field("ExcNodeList")
        return [] if found in (None, "(null)") else _host_names(str(found))

    def update(self, **fields: object) -> bool:
        """Change fields of the requeued job; return whether Slurm did.

        Slurm refuses this for a running job, so requeue it first: it starts two minutes later at
        the earliest.
        """
        words = [f"{name}={value}" for name, value in fields.items()]
        for attempt in range(3):  # the controller may be busy with ending the job's steps
            if attempt:
                time.sleep(2)
            if _answer("scontrol", "update", f"JobId={self._named}", *words) is not None:
                return True
        return False

    def unusable(self, hosts: Sequence[str]) -> dict[str, str]:
        """Return those of `hosts` that Slurm has no use for, with their states."""
        text = _answer(
            "sinfo", "--noheader", "--Node", f"--nodes={','.join(hosts)}", "--format=%N %T"
        )
        states = dict(line.split()[:2] for line in (text or "").splitlines() if " " in line)
        return {
            host: state
            for host in hosts
            if (state := states.get(host, "idle")) and is_unusable(state)
        }

    def usable_without(self, excluded: Iterable[str]) -> int | None:
        """Return how many nodes of the job's partition are usable without `excluded`."""
        partition = self.field("Partition")
        states = _node_states(f"--partition={partition}") if partition else None
        if states is None:
            return None
        rest = set(states) - set(excluded)
        return sum(not is_unusable(states[host]) for host in rest)

    def silent(self, hosts: Sequence[str], gpus: int) -> list[str]:
        """Return those of `hosts` on which no task can be started: none started twice.

        Slurm may take minutes to notice that a node is gone. If no node starts a task, it is the
        allocation or Slurm itself that is broken.

        Args:
            gpus: GPUs of each node, which are asked for as the ranks do.
        """
        first = _answer(*_probe(hosts, gpus), seconds=PROBE_SECONDS, failing=True) or ""
        rest = [host for host in hosts if host not in first.split()]
        with ThreadPoolExecutor(PROBES_AT_ONCE) as threads:
            again = threads.map(
                lambda host: _answer(*_probe([host], gpus), seconds=PROBE_SECONDS) or "", rest
            )
        return [host for host, text in zip(rest, again, strict=True) if host not in text.split()]


def is_unusable(state: str) -> bool:
    """Return whether a node in this state of `sinfo` is of no use; `*` means that it is silent."""
    return state.endswith("*") or state.rstrip("~#!%$@^-+").lower() in _UNUSABLE


def _host_names(node_list: str) -> list[str]:
    """Return the names in a node list such as n[1-3,7]; none without an answer."""
    return (_answer("scontrol", "show", "hostnames", node_list) or "").split()


def _node_states(which: str) -> dict[str, str] | None:
    """Return the states of the nodes that an option of `sinfo` selects; None without an answer."""
    text = _answer("sinfo", "--noheader", "--Node", which, "--format=%N %T")
    if text is None:
        return None
    return {words[0]: words[1] for words in map(str.split, text.splitlines()) if len(words) == 2}


def _probe(hosts: Sequence[str], gpus: int) -> list[str]:
    """Return the command that prints the name of every host on which it can start a task."""
    return [
        *("srun", f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}", "--ntasks-per-node=1"),
        *(f"--nodelist={','.join(hosts)}", "--cpus-per-task=1", "--mpi=none", "--overlap"),
        *((f"--gpus-per-node={gpus}",) if gpus else ()),
        *("--kill-on-bad-exit=0", "printenv", "SLURMD_NODENAME"),
    ]


def _answer(*command: str, seconds: float = COMMAND_SECONDS, failing: bool = False) -> str | None:
    """Return the output of a command; None if it fails, unless `failing`, or does not answer."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
        if result.returncode == 0 or failing:
            return result.stdout
    return None
