"""Stop requests: signals, the STOP file, the death of a launcher above the rank."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmbert.training.fault_tolerance.process_tree import launcher_chain, parent_of
from mmbert.training.fault_tolerance.stop_request import STOP_FILE, StopRequest
from tests.support.environment import with_packages


@pytest.fixture(autouse=True)
def nothing_is_ignored() -> Iterator[None]:
    """Tests started in the background or under nohup would ignore signals."""
    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_only_raises_the_flag(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopRequest(tmp_path)
    try:
        assert stop.reason() is None
        os.kill(os.getpid(), number)
        assert stop.reason() == f"received {number.name}"
    finally:
        stop.close()
    assert signal.getsignal(number) is before


def test_under_nohup_a_hangup_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest(tmp_path)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.reason() is None
    finally:
        stop.close()
        signal.signal(signal.SIGHUP, before)


def test_the_second_interrupt_means_it(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.close()


def test_the_stop_file_is_seen_and_removed(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path)
    try:
        (tmp_path / STOP_FILE).touch()
        assert STOP_FILE in (stop.reason() or "")
        stop.clear_stop_file()
        assert stop.reason() is None
    finally:
        stop.close()


# Three generations as under `deepspeed`: runner, launcher, rank. The names of the scripts are what
# makes the upper two launchers.
RANK = """
import sys, time
from pathlib import Path
from typing import Any
from mmbert.training.fault_tolerance.stop_request import StopRequest
stop = StopRequest(Path(sys.argv[1]))
print(len(stop._launchers), flush=True)
for _ in range(200):
    if stop.reason():
        Path(sys.argv[1], "reason.txt").write_text(stop.reason())
        break
    time.sleep(0.05)
"""
LAUNCHER = """
import subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]])
"""


def test_ranks_notice_when_the_upper_launcher_is_killed(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(textwrap.dedent(RANK))
    for name in ("deepspeed", "torchrun"):
        (tmp_path / name).write_text(textwrap.dedent(LAUNCHER))
    runner = subprocess.Popen(
        [
            sys.executable,
            str(tmp_path / "deepspeed"),
            str(tmp_path / "torchrun"),
            str(tmp_path / "rank.py"),
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=with_packages(*sys.path),
    )
    assert_noticed(runner, 2, tmp_path)


def test_ranks_on_another_machine_notice_when_ssh_is_gone(tmp_path: Path) -> None:
    """Processes on a remote machine: sshd, its shell, deepspeed's launcher there, the rank."""
    (tmp_path / "rank.py").write_text(textwrap.dedent(RANK))
    for name in ("server.py", "deepspeed.launcher.launch"):
        (tmp_path / name).write_text(textwrap.dedent(LAUNCHER).replace("sys.executable, ", ""))
    launch = f"{sys.executable} {tmp_path}/deepspeed.launcher.launch {sys.executable}"
    server = subprocess.Popen(
        [
            "sshd: somebody@notty",
            str(tmp_path / "server.py"),
            "bash",
            "-c",
            f"{launch} {tmp_path}/rank.py {tmp_path}; true",
        ],
        executable=sys.executable,
        stdout=subprocess.PIPE,
        text=True,
        env=with_packages(*sys.path),
    )
    assert_noticed(server, 3, tmp_path)


def assert_noticed(upper: subprocess.Popen[str], generations: int, folder: Path) -> None:
    """Kill the uppermost launcher of a rank that has this many."""
    assert upper.stdout is not None
    assert upper.stdout.readline().strip() == str(generations)
    upper.kill()
    upper.wait()
    deadline = time.monotonic() + 10
    reason = folder / "reason.txt"  # exists for a moment before it has its text
    while not (reason.exists() and reason.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert reason.read_text() == f"the launcher (process {upper.pid}) is gone"


def test_a_shell_is_no_launcher() -> None:
    # The test runner's own ancestors are shells and pytest: nothing to watch.
    assert launcher_chain(os.getpid()) == []
    assert parent_of(os.getpid()) == os.getppid()
    assert parent_of(2**22 + 1) is None
