"""Launchers among the ancestors of this process, read from /proc."""

import os
from pathlib import Path

# Commands of launchers, whose death leaves the ranks unsupervised. Login shells are excluded:
# `nohup python -m mmbert.pretrain &` must survive its terminal.
_LAUNCHERS = (
    "deepspeed",
    "torchrun",
    "torch.distributed",
    "mpirun",
    "mpiexec",
    "prterun",
    "prted",
    "orted",
    "hydra_pmi_proxy",
    "slurmstepd",
)
# Launcher that `deepspeed` runs on the other nodes, in a shell that sshd starts and that outlives
# the connection.
_REMOTE_LAUNCHER = "deepspeed.launcher.launch"


def launcher_chain(process: int) -> list[tuple[int, int]]:
    """Return (child, parent) pairs from `process` upwards, as long as the parent is a launcher.

    A rank has two `deepspeed` ancestors. If the upper one is killed, the lower one and the ranks
    are not notified; only the parent of the lower one changes. On other nodes the upper one is
    sshd.
    """
    chain: list[tuple[int, int]] = []
    parent = parent_of(process)
    while parent is not None and parent > 1 and _is_launcher_of(parent, process):
        chain.append((process, parent))
        process, parent = parent, parent_of(parent)
    return chain


def parent_of(process: int) -> int | None:
    """Return the parent's process id; None if the process has ended or /proc is missing."""
    if process == os.getpid():
        return os.getppid()
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # "pid (name) state ppid …"; the name may contain spaces and parentheses.
    state, parent = status.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def command_of(process: int) -> list[str]:
    """Return the words of the command line; empty if the process or /proc does not exist."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _is_launcher_of(parent: int, child: int) -> bool:
    """Return whether `parent` is a launcher that supervises `child`."""
    words = command_of(parent)
    # Program, script and module (`python -u -m deepspeed.launcher.launch`) are among the first
    # words. Later words are arguments, in which a path may contain any of the names.
    options = [word for word in words[:5] if word and not word.startswith("-")][:2]
    if any(Path(word).name.startswith(_LAUNCHERS) for word in options):
        return True
    if any(_REMOTE_LAUNCHER in word for word in words[:3]):
        return True  # the shell
    return words[:1] != [] and words[0].startswith("sshd") and _runs_remote_launcher(child)


def _runs_remote_launcher(process: int) -> bool:
    return any(_REMOTE_LAUNCHER in word for word in command_of(process)[:5])
