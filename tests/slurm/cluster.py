"""Virtual Slurm cluster made by virtual_cluster.sh: start it, run commands, wait for jobs.

The cluster is one PID namespace: when its first process ends, so do all others, jobs included.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

SCRIPT = Path(__file__).with_name("virtual_cluster.sh")
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "nsenter", "unshare")
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED")
_NAMESPACES = ("--pid", "--mount", "--net", "--uts")
_UNSHARE = ("unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc")


def missing() -> str | None:
    """Return why no cluster can be started here, or None if one can."""
    if os.geteuid() != 0:
        return "needs root (network namespaces)"
    programs = [program for program in NEEDED if shutil.which(program) is None]
    if programs:
        return f"needs {', '.join(programs)} (apt-get install slurm-wlm munge iproute2)"
    probe = subprocess.run(
        [*_UNSHARE, "true"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    return f"cannot create namespaces: {probe.stderr.strip()}" if probe.returncode else None


def _on_host(node: str) -> tuple[str, ...]:
    """Return the words before a command that is to run with the network and name of a host."""
    enter = ("nsenter", f"--net=/run/netns/{node}", "--", "unshare", "--uts")
    return (*enter, "bash", "-c", f'hostname {node}; exec "$@"', "bash")


class Cluster:
    """Hosts n1, n2, … with 2 CPUs and `gpus` fake GPUs each; partitions main and high.

    Jobs in `high` preempt jobs in `main`, which then have 60 seconds to exit. All hosts share the
    file system of this machine.
    """

    def __init__(self, folder: Path, *, nodes: int, gpus: int) -> None:
        """Start the cluster with its files in `folder` (a short path). Raises RuntimeError."""
        self.folder = folder
        folder.mkdir(parents=True)
        with (folder / "start.log").open("w") as log:
            self._process = subprocess.Popen(
                [*_UNSHARE, "bash", str(SCRIPT), str(folder), str(nodes), str(gpus)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        output = ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            output += line
            if line.strip() == "ready":
                break
        if output.count(" idle ") != nodes:
            error = (folder / "start.log").read_text()
            self.stop()
            raise RuntimeError(f"the virtual cluster did not start:\n{output}{error}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._first_process = children.read_text().split()[0]

    def stop(self) -> None:
        """Kill everything in the cluster and remove its files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        timeout: float = 60,
    ) -> str:
        """Run `command` on the controller (the "login node") and return its standard output.

        Raises:
            RuntimeError: it failed; the message has its output.
        """
        enter = ["nsenter", f"--target={self._first_process}", *_NAMESPACES]
        result = subprocess.run(
            [*enter, f"--wd={folder or self.folder}", "--", *map(str, command)],
            env={
                **os.environ,
                **(environment or {}),
                "SLURM_CONF": f"{self.folder}/etc/slurm.conf",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if result.returncode:
            raise RuntimeError(f"{command}: {result.stdout}{result.stderr}")
        return result.stdout

    def start(
        self, node: str, *command: str | Path, environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start `command` on a host, as over ssh but without one; its output goes to `log`."""
        enter = ["nsenter", f"--target={self._first_process}", *_NAMESPACES, f"--wd={self.folder}"]
        with log.open("ab") as file:
            return subprocess.Popen(
                [*enter, "--", *_on_host(node), *map(str, command)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def on_host(
        self,
        node: str,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        timeout: float = 60,
    ) -> str:
        """Run `command` on a host and return its standard output; see `run`."""
        return self.run(
            *_on_host(node), *command, environment=environment, folder=folder, timeout=timeout
        )

    def submit(
        self,
        *arguments: str | Path,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Run `sbatch ARGUMENTS` in `folder` and return the job id."""
        command = ("sbatch", "--parsable", *arguments)
        return int(self.run(*command, folder=folder, environment=environment))

    def job(self, job: int | str) -> dict[str, str]:
        """Return the fields of `scontrol show job`: JobState, Restarts, ExitCode, StdOut, …"""
        words = self.run("scontrol", "show", "job", str(job), timeout=300).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, job: int | str) -> str:
        """Return the output of the job so far, over all its starts."""
        path = Path(self.job(job)["StdOut"])
        return path.read_text() if path.exists() else ""

    def wait_state(self, job: int | str, *states: str, timeout: float = 120) -> dict[str, str]:
        """Wait until the job is in one of `states`. Raises TimeoutError with its log."""
        end = time.monotonic() + timeout
        while (found := self.job(job))["JobState"] not in states:
            if time.monotonic() > end or found["JobState"] in _FINAL:
                raise TimeoutError(
                    f"job {job} is {found['JobState']}, not {states}; its log:\n{self.log(job)}"
                )
            time.sleep(0.2)
        return found

    def wait_log(self, job: int | str, text: str, *, times: int = 1, timeout: float = 120) -> None:
        """Wait until the log contains `text` this many times. Raises TimeoutError with the log."""
        end = time.monotonic() + timeout
        while self.log(job).count(text) < times:
            state = self.job(job)["JobState"]
            if time.monotonic() > end or state in _FINAL:
                if self.log(job).count(text) >= times:
                    return
                said = f"job {job} ({state}) did not print {text!r} {times} times"
                raise TimeoutError(f"{said}; its log:\n{self.log(job)}")
            time.sleep(0.2)

    def restart_now(self, job: int | str) -> None:
        """Start a requeued job immediately; Slurm would wait two minutes."""
        requeues = self.wait_state(job, "PENDING")["Restarts"]
        end = time.monotonic() + 120
        while (found := self.job(job))["JobState"] == "PENDING" and found["Restarts"] == requeues:
            if time.monotonic() > end:
                raise TimeoutError(f"job {job} did not restart: {self.job(job)}")
            # Not "now": a job that starts in the second of its requeue loses its credential and
            # fails. Repeated, because Slurm drops the request while a node is still completing.
            with contextlib.suppress(RuntimeError):  # the job has just started
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")
            time.sleep(5)

    def kill_task(self, variable: str, program: str) -> None:
        """SIGKILL processes of `program` with `variable` (SLURM_PROCID=1) in their environment."""
        found = f"grep -lz ^{variable}$ /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3"
        kill = f"grep -qz {program} /proc/$p/cmdline && kill -9 $p"
        self.run("bash", "-c", f"for p in $({found}); do {kill}; done; true")

    def kill_node(self, node: str) -> None:
        """Kill all processes of a host and report it to the controller as down."""
        self.run("bash", "-c", f"kill -9 $(ip netns pids {node})")
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=died")

    def revive_node(self, node: str) -> None:
        """Restart the daemon of a dead host and wait until the host is idle."""
        self.on_host(node, "slurmd")
        self._wait_idle(node)

    def resume_node(self, node: str) -> None:
        """Return a host that did not answer for a time to the cluster, if it was given up."""
        if self._state(node).startswith("down"):
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self._wait_idle(node)

    def _state(self, node: str) -> str:
        return self.run("sinfo", "-h", "-N", "-p", "main", "-n", node, "-o", "%T").strip()

    def _wait_idle(self, node: str) -> None:
        """Wait until the host has no job and answers. Raises TimeoutError."""
        end = time.monotonic() + 60
        while self._state(node) != "idle":
            if time.monotonic() > end:
                raise TimeoutError(f"{node} did not come back: {self.run('sinfo', '-N')}")
            time.sleep(0.2)

    def cancel_all(self) -> None:
        """Cancel all jobs and wait for them, so that the next test finds idle nodes."""
        self.run("scancel", "--user=root")
        end = time.monotonic() + 120
        states = ("sinfo", "-h", "-N", "-p", "main", "-o", "%T")
        while self.run("squeue", "-h").strip() or set(self.run(*states).split()) != {"idle"}:
            if time.monotonic() > end:
                said = self.run("squeue") + self.run("sinfo", "-N")
                raise TimeoutError(f"jobs did not end, or nodes are not idle:\n{said}")
            time.sleep(0.2)
