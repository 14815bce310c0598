"""The `deepspeed` command that started a rank, as far as the commands in /proc tell.

`deepspeed` starts one `deepspeed.launcher.launch` on every node, over ssh with pdsh by default, and
gives it the hosts and slots as `--world_info`. It hands few variables over: pdsh itself is the
process that still has those of the user's shell.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from mmbert.errors import LauncherError
from mmbert.training.fault_tolerance.process_tree import command_of, launcher_chain

PRETRAIN_MODULE = "mmbert.pretrain"
_LAUNCH_MODULE = "deepspeed.launcher.launch"
_WORLD_INFO = "--world_info="


def over_ssh(process: int | None = None) -> bool:
    """Return whether `deepspeed` started `process` (default: this one) on a node over ssh.

    False on one node, and with --no_ssh, with which the user starts `deepspeed` on every node.
    """
    commands = _launcher_commands(process)
    launch = next((words for words in commands if _LAUNCH_MODULE in words), [])
    by_hand = any("--no_ssh" in words for words in commands)
    local = any(_is_runner(words) for words in commands)
    return bool(launch) and not by_hand and not local


def shell_variables(process: int | None = None) -> dict[str, str] | None:
    """Return the variables of the shell in which `deepspeed` was started.

    None if it was started on another machine, or by another user.
    """
    commands = _launcher_commands(process)
    world = next((word for words in commands for word in words if word.startswith(_WORLD_INFO)), "")
    if not world:
        return None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        words = command_of(int(entry.name))
        if words and Path(words[0]).name == "pdsh" and world in words:
            try:
                pairs = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                return None
            return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return None


def check_hostfile() -> None:
    """Refuse to train if the hostfile given to `deepspeed` does not exist.

    `deepspeed` would only log a line and train on this node alone.

    Raises:
        LauncherError: the hostfile is missing.
    """
    for _, launcher in launcher_chain(os.getpid()):
        named = hostfile_argument(command_of(launcher))
        folder = Path(f"/proc/{launcher}/cwd").resolve()
        if named is not None and not (folder / named).is_file():
            raise LauncherError(
                f"hostfile {named} does not exist in {folder}: `deepspeed` has started this "
                "machine only",
                remedy="give --hostfile an absolute path that exists on the machine where "
                "`deepspeed` is started, or omit it to train on one machine",
            )


def hostfile_argument(command: Sequence[str]) -> str | None:
    """Return the hostfile given to a `deepspeed` command before its script or module, or None."""
    for position, word in enumerate(command):
        if position > 1 and (word.endswith(".py") or word == PRETRAIN_MODULE):
            return None  # the rest are the script's own arguments
        option, equals, value = word.partition("=")
        if option in ("-H", "--hostfile"):
            following = command[position + 1] if position + 1 < len(command) else None
            return value if equals else following
    return None


def _launcher_commands(process: int | None) -> list[list[str]]:
    """Return the commands of the launchers above `process`, the nearest first."""
    chain = launcher_chain(os.getpid() if process is None else process)
    return [command_of(parent) for _, parent in chain]


def _is_runner(words: list[str]) -> bool:
    """Return whether this is the `deepspeed` program itself, not its part on a node."""
    return any(Path(word).name == "deepspeed" for word in words[:3])
