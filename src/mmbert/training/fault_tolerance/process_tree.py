"""The processes above this one, read from /proc: is the launcher that started it still there?"""

import os
from pathlib import Path

# Command lines of processes whose death means that nobody looks after the ranks any more. A login
# shell is not among them: `nohup python launch/pretrain.py &` must survive its terminal.
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
# What `deepspeed` has run on the other machines: by a shell that ssh's server starts there, and
# that outlives the connection.
_REMOTE_LAUNCHER = "deepspeed.launcher.launch"


def launcher_chain(process: int) -> list[tuple[int, int]]:
    """(child, parent) pairs upwards from `process` for as long as the parent is a launcher.

    `deepspeed` is two processes above a rank: when the upper one is killed, the lower one and the
    ranks live on, untold; only the lower one's parent changes. On another machine the place of the
    upper one is taken by ssh's server.
    """
    chain: list[tuple[int, int]] = []
    parent = parent_of(process)
    while parent is not None and parent > 1 and _is_launcher_of(parent, process):
        chain.append((process, parent))
        process, parent = parent, parent_of(parent)
    return chain


def parent_of(process: int) -> int | None:
    """The parent's process id, None when the process is gone or the system has no /proc."""
    if process == os.getpid():
        return os.getppid()
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # "pid (name) state ppid …"; the name may hold spaces and brackets.
    state, parent = status.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def command_of(process: int) -> list[str]:
    """The words of the command line; none when the process is gone or there is no /proc."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _is_launcher_of(parent: int, child: int) -> bool:
    """Whether `parent` is there to start and end `child`, and nothing else is."""
    words = command_of(parent)
    # The program, its script or its module (`python -u -m deepspeed.launcher.launch`): the first
    # few words. Later ones are arguments, where a path may contain any of the names.
    options = [word for word in words[:5] if word and not word.startswith("-")][:2]
    if any(Path(word).name.startswith(_LAUNCHERS) for word in options):
        return True
    if any(_REMOTE_LAUNCHER in word for word in words[:3]):
        return True  # the shell
    return words[:1] != [] and words[0].startswith("sshd") and _runs_remote_launcher(child)


def _runs_remote_launcher(process: int) -> bool:
    return any(_REMOTE_LAUNCHER in word for word in command_of(process)[:5])
