"""Starts the ranks of a run on this host, waits for them and ends them, as a launcher does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mmbert.fault_drill.injection import Injection

LONGEST_START = 900.0
"""Seconds after which a start counts as hanging."""
_POLL = 0.02
# Variables of the launcher that the drill itself may have been started by.
_OF_LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "PRTE_", "MPI_", "TORCHELASTIC_", "HYDRA_")
_OF_RANKS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("LOCAL_WORLD_SIZE", "GROUP_RANK", "CROSS_RANK", "CROSS_SIZE"),
)


def environment_of_drill(temporary: Path, *, on_cpu: bool) -> dict[str, str]:
    """Return the environment of all programs of a drill, whose temporary files go below a folder.

    Connections use the loopback interface, and NCCL no shared memory.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OF_LAUNCHERS) and name not in _OF_RANKS
    }
    caches = ("TMPDIR", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")
    kept |= dict.fromkeys(caches, str(temporary))
    kept |= {"NCCL_SHM_DISABLE": "1"}
    if sys.platform == "linux":
        kept |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    if on_cpu:
        kept |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    return kept


def free_port() -> int:
    """Return a port of this host that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Ranks:
    """The processes of one start; each has a process group of its own, with its data workers."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, arguments: Sequence[str], injections: Sequence[Injection], ports: Sequence[int]
    ) -> None:
        """Start a rank for each injection, with its port of rank 0.

        The output of all is appended to the log.
        """
        world_size = len(injections)
        for rank, (injection, port) in enumerate(zip(injections, ports, strict=True)):
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size}
            variables |= {"MASTER_PORT": port}
            environment = dict(self._environment) | {k: str(v) for k, v in variables.items()}
            with self._log.open("ab") as log:
                self._processes.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-P", "-m", "mmbert.fault_drill.rank"),
                            *(injection.model_dump_json(), *arguments),
                        ],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment | {"MASTER_ADDR": "127.0.0.1"},
                        process_group=0,
                    )
                )

    def wait(self, remaining: Collection[int] = ()) -> list[int | None]:
        """Wait until all ranks but `remaining` have ended by themselves; end the others.

        Returns the exit statuses: negative for a signal, None for a rank that was ended here.
        """
        waited = [one for rank, one in enumerate(self._processes) if rank not in remaining]
        deadline = time.monotonic() + LONGEST_START
        while any(one.poll() is None for one in waited) and time.monotonic() < deadline:
            time.sleep(_POLL)
        statuses = [one.poll() for one in self._processes]
        self.end()
        return statuses

    def end(self) -> None:
        """Kill what is left of all ranks and their workers, and wait for them."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
