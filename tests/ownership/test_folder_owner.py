"""One owner for a folder: who may take it, and what a former owner may still do."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbert.errors import OutputError
from mmbert.ownership import (
    OWNER_NAME,
    FolderOwner,
    Lease,
    OwnershipLostError,
    take_folder,
)
from mmbert.ownership.identity import START_VARIABLE, this_process

NEVER = Lease(renewal=1000.0, life=180.0)
OTHER = {"host": "elsewhere", "pid": 7, "started": "1", "boot": "b", "namespace": "n"}


def lay(folder: Path, age: float = 0.0, **changes: Any) -> Path:
    """Write an owner file as another process would, renewed `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    path = folder / OWNER_NAME
    owner = {"token": "theirs", "since": 1e9, **OTHER, **changes}
    path.write_text(json.dumps(owner))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def here(**changes: Any) -> dict[str, Any]:
    """Return this process's place, with changes."""
    values = this_process({}).model_dump(exclude={"token", "since"})
    return values | changes


def ended_process() -> int:
    """Return the id of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def slurm(job: str, restart: str | None, cluster: str = "c") -> dict[str, str]:
    values = {"SLURM_CLUSTER_NAME": cluster, "SLURM_JOB_ID": job}
    return values if restart is None else values | {"SLURM_RESTART_COUNT": restart}


def test_the_second_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with take_folder(
        run, what=f"the run {run}", force="--take-over", me=this_process(slurm("12", "3"))
    ):
        with pytest.raises(OutputError) as refused:
            take_folder(run, what=f"the run {run}", force="--take-over")
        first = f"the run {run} is being written by process {os.getpid()} on {socket.gethostname()}"
        assert refused.value.message.startswith(first)
        assert "since 20" in refused.value.message
        assert "Slurm job 12, restart 3" in refused.value.message
        assert "--take-over takes the folder" in refused.value.remedy
        assert "in 180 s" not in refused.value.remedy  # it is seen to be alive
    assert not (run / OWNER_NAME).exists()
    take_folder(run).release()
    assert not list(run.iterdir())


@pytest.mark.parametrize(
    ("owner", "dead"),
    [
        (lambda: here(pid=ended_process()), True),
        (lambda: here(started="1"), True),  # the id now belongs to another process
        (lambda: here(), False),
        # The same ids in another namespace, boot or host tell nothing about this machine's.
        (lambda: here(started="1", namespace="pid:[1]"), False),
        (lambda: here(pid=2**22 - 1, namespace="pid:[1]"), False),
        (lambda: here(pid=2**22 - 1, boot="an earlier one"), False),
        (lambda: here(pid=2**22 - 1, host="elsewhere"), False),
        (lambda: here(pid=1, started="1"), True),  # another user's, where this is not root
        (lambda: here(pid=2**40), True),
    ],
)
def test_a_process_is_looked_up_only_where_its_id_means_something(
    tmp_path: Path, owner: Callable[[], dict[str, Any]], dead: bool
) -> None:
    lay(tmp_path, **owner())
    if dead:
        with take_folder(tmp_path) as taken:
            assert "is gone" in (taken.taken_from or "")
    else:
        with pytest.raises(OutputError, match="is being written by process"):
            take_folder(tmp_path)


@pytest.mark.parametrize(("age", "dead"), [(-3600, False), (170, False), (181, True)])
@pytest.mark.parametrize("content", [None, b"", b"{ cut", b"[]", b'{"token": 3}'])
def test_what_cannot_be_seen_is_dead_when_its_lease_is_over(
    tmp_path: Path, age: float, dead: bool, content: bytes | None
) -> None:
    """By the times of files: the clock of this host (and of theirs, -3600) does not matter."""
    path = lay(tmp_path)
    if content is not None:
        path.write_bytes(content)
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    if dead:
        with take_folder(tmp_path) as taken:
            assert "gave no sign of life for 18" in (taken.taken_from or "")
    else:
        with pytest.raises(OutputError) as refused:
            take_folder(tmp_path)
        rest = 180 if age < 0 else 10
        assert f"again in {rest} s" in refused.value.remedy


@pytest.mark.parametrize("offset", [-4000.0, 4000.0])
def test_this_hosts_clock_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    lay(tmp_path, age=100)
    with pytest.raises(OutputError):
        take_folder(tmp_path)
    lay(tmp_path, age=200)
    take_folder(tmp_path).release()


@pytest.mark.parametrize(
    ("theirs", "ours", "taken"),
    [
        (slurm("7", None), slurm("7", "1"), True),
        (slurm("7", "1"), slurm("7", "2"), True),
        (slurm("7", "9"), slurm("7", "10"), True),
        (slurm("7", "2"), slurm("7", "2"), False),
        (slurm("7", "2"), slurm("7", "1"), False),
        (slurm("8", "0"), slurm("7", "1"), False),
        (slurm("7", "0", "other"), slurm("7", "1"), False),  # clusters that share a file system
        (slurm("7", "0"), slurm("7", ""), False),
        (slurm("7", "0"), slurm("7", "odd"), False),
        # Ranks that the restart loop starts again, perhaps in a container of their own.
        (slurm("7", "0"), slurm("7", "0") | {START_VARIABLE: "1"}, True),
        (slurm("7", "0") | {START_VARIABLE: "2"}, slurm("7", "0") | {START_VARIABLE: "1"}, False),
        (slurm("7", "0") | {START_VARIABLE: "2"}, slurm("7", "1") | {START_VARIABLE: "0"}, True),
        (slurm("7", "0"), slurm("8", "0") | {START_VARIABLE: "1"}, False),
        ({}, {}, False),
        ({}, {"SLURM_RESTART_COUNT": "1"}, False),
        (slurm("", "0"), slurm("", "1"), False),
    ],
)
def test_a_requeued_job_takes_over_at_once(
    tmp_path: Path, theirs: dict[str, str], ours: dict[str, str], taken: bool
) -> None:
    first = this_process(theirs).model_copy(update=OTHER)
    lay(tmp_path, **first.model_dump())
    if taken:
        with take_folder(tmp_path, me=this_process(ours)) as owner:
            assert "was ended by Slurm" in (owner.taken_from or "")
    else:
        with pytest.raises(OutputError):
            take_folder(tmp_path, me=this_process(ours))


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def test_a_former_owner_changes_nothing(tmp_path: Path) -> None:
    first = take_folder(tmp_path, what="the run", lease=NEVER)
    with first.writing():
        pass
    second = take_folder(tmp_path, forced=True, lease=NEVER)
    assert "was told to give way" in (second.taken_from or "")
    with pytest.raises(OwnershipLostError, match=f"taken over by process {os.getpid()} on"):
        first.check()
    with pytest.raises(OwnershipLostError), first.writing():
        pytest.fail("written after the folder was taken")
    first.release()
    second.check()  # its file is still there
    second.release()
    assert not (tmp_path / OWNER_NAME).exists()


def test_a_removed_owner_file_is_a_loss(tmp_path: Path) -> None:
    """The next owner may have come, ended and removed its own."""
    with take_folder(tmp_path, lease=NEVER) as owner:
        (tmp_path / OWNER_NAME).unlink()
        with pytest.raises(OwnershipLostError, match=r"lost its owner\.json"):
            owner.check()
    with take_folder(tmp_path, lease=NEVER) as later:
        with pytest.raises(OwnershipLostError):
            owner.check()
        later.check()


def test_after_its_release_an_owner_writes_no_more(tmp_path: Path) -> None:
    """A thread may still be about to write when the process gives up its folder."""
    owner, inside, go_on = take_folder(tmp_path), threading.Event(), threading.Event()

    def write() -> None:
        with owner.writing():
            inside.set()
            go_on.wait(10)
            assert (tmp_path / OWNER_NAME).exists()

    writer = threading.Thread(target=write)
    writer.start()
    assert inside.wait(10)
    release = threading.Thread(target=owner.release)
    release.start()
    release.join(0.02)
    assert release.is_alive(), "released in the middle of a write"
    go_on.set()
    writer.join(10)
    release.join(10)
    with pytest.raises(OwnershipLostError):
        owner.check()
    take_folder(tmp_path).release()


def test_the_lease_is_renewed_until_another_has_the_folder(tmp_path: Path) -> None:
    path, lease = tmp_path / OWNER_NAME, Lease(renewal=0.01, life=5.0)
    first = take_folder(tmp_path, lease=lease)
    os.utime(path, (1, 1))
    _wait(lambda: path.stat().st_mtime > 1)
    assert first.lost is None
    second = take_folder(tmp_path, forced=True, lease=NEVER)
    os.utime(path, (1, 1))
    _wait(lambda: first.lost is not None)
    assert path.stat().st_mtime == 1, "the former owner renewed the lease of the next"
    first.release()
    second.release()


@pytest.mark.parametrize("after_a_dead_owner", [False, True])
def test_of_many_that_start_at_once_one_gets_the_folder(
    tmp_path: Path, after_a_dead_owner: bool
) -> None:
    if after_a_dead_owner:
        lay(tmp_path, age=1000)
    start, owners, refused = threading.Barrier(8), list[FolderOwner](), list[OutputError]()

    def take() -> None:
        start.wait(10)
        try:
            owners.append(take_folder(tmp_path))
        except OutputError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(owners), len(refused)) == (1, 7)
    owners[0].check()
    owners[0].release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["link", "flock", "both"])
def test_file_systems_without_links_or_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(95, "Operation not supported")

    for name in ("os.link", "fcntl.flock"):
        if missing in (name.split(".")[1], "both"):
            monkeypatch.setattr(name, refuse)
    with take_folder(tmp_path), pytest.raises(OutputError, match="being written by process"):
        take_folder(tmp_path)
    lay(tmp_path, age=1000)
    take_folder(tmp_path).release()


def test_a_process_suspended_while_taking_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbert.ownership.owner_file._GUARD_SECONDS", 0.05)
    with (tmp_path / f".{OWNER_NAME}.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        take_folder(tmp_path).release()


def test_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/run"):
        with pytest.raises(OutputError):
            take_folder(tmp_path / place)
