"""Owners that are processes: killed, suspended, and in another namespace of process ids."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmbert.errors import OutputError
from mmbert.ownership import OWNER_NAME, Identity, Lease, take_folder
from mmbert.ownership.identity import this_process

NEVER = Lease(renewal=1000.0, life=180.0)


def test_a_zombie_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        pytest.skip("needs /proc")
    started = stat.read_text().rpartition(")")[2].split()[19]
    owner = this_process().model_copy(update={"pid": process.pid, "started": started})
    (tmp_path / OWNER_NAME).write_text(owner.model_dump_json())
    with pytest.raises(OutputError):
        take_folder(tmp_path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    take_folder(tmp_path).release()
    process.communicate()


HOLD = """
import sys
from pathlib import Path
from mmbert.ownership import Lease, OwnershipLostError, take_folder

owner = take_folder(Path(sys.argv[1]), lease=Lease(float(sys.argv[2]), 180.0))
print("owns", flush=True)
for line in sys.stdin:
    try:
        with owner.writing():
            (Path(sys.argv[1]) / "written").write_text(line)
        print("wrote", flush=True)
    except OwnershipLostError as lost:
        print(lost.message, flush=True)
owner.release()
"""


@contextmanager
def holder(folder: Path, *prefix: str, renewal: float = 30.0) -> Iterator[subprocess.Popen[str]]:
    """Start a process that owns the folder and writes at each line of its input."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLD, str(folder), str(renewal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "owns\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("line\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_killed_owner_is_followed_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert ask(process) == "wrote\n"
        with pytest.raises(OutputError, match=f"process {process.pid} on"):
            take_folder(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with take_folder(tmp_path) as owner:
            assert "is gone" in (owner.taken_from or "")


def test_a_suspended_owner_that_wakes_writes_nothing(tmp_path: Path) -> None:
    with holder(tmp_path, renewal=0.01) as process:
        process.send_signal(signal.SIGSTOP)
        path = tmp_path / OWNER_NAME
        time.sleep(0.05)  # what it had begun
        with pytest.raises(OutputError):
            take_folder(tmp_path)  # suspended, not gone
        now = path.stat().st_mtime
        os.utime(path, (now - 200, now - 200))
        with take_folder(tmp_path, lease=NEVER) as owner:
            process.send_signal(signal.SIGCONT)
            assert f"was taken over by process {os.getpid()}" in ask(process)
            assert not (tmp_path / "written").exists()
            owner.check()
        assert not path.exists()
        assert "was taken over" in ask(process), "it must not come back"


def test_two_namespaces_with_the_same_process_ids(tmp_path: Path) -> None:
    """Ids of containers collide; neither life nor death is concluded from them."""
    unshare = ["unshare", "--map-root-user", "--pid", "--uts", "--fork", "--mount-proc"]
    try:
        probe = subprocess.run([*unshare, "true"], capture_output=True, timeout=20)
    except OSError as error:
        pytest.skip(f"no namespaces here: {error}")
    if probe.returncode:
        pytest.skip(f"no namespaces here: {probe.stderr.decode()}")
    with holder(tmp_path, *unshare) as first:
        path = tmp_path / OWNER_NAME
        owner = Identity.model_validate_json(path.read_bytes())
        assert owner.pid == 1
        assert owner.namespace != this_process().namespace
        # From here its id is another process, which lives and began at another time.
        with pytest.raises(OutputError, match="process 1 on"):
            take_folder(tmp_path)
        # From a second namespace its id is that of the process which asks.
        command = [*unshare, sys.executable, "-c", HOLD, str(tmp_path), "30"]
        second = subprocess.run(command, capture_output=True, text=True, input="")
        assert second.returncode == 1
        assert "being written by process 1 on" in second.stderr
        assert ask(first) == "wrote\n"
        now = path.stat().st_mtime
        os.utime(path, (now - 200, now - 200))
        second = subprocess.run(command, capture_output=True, text=True, input="")
        assert second.stdout == "owns\n"
        assert "lost its owner.json" in ask(first)
