"""The job under the real `deepspeed` launcher: exit status, its death, no processes left over."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment import ON_A_CPU, ROOT, with_packages
from tests.support.job_processes import output_of, run_to_the_end, wait_for
from tests.support.small_run import events, options_for, step_losses

MARK = "MMBERT_TEST_RUN"


def launch(
    inputs: Path,
    run: Path,
    *overrides: str,
    ranks: int = 2,
    port: int | None = None,
    hostfile: str | None = None,
) -> subprocess.Popen[bytes]:
    """`deepspeed --num_gpus RANKS launch/pretrain.py …`; its output goes to `run`.log."""
    environment = with_packages(**ON_A_CPU, **{MARK: str(run)})
    port = port or 20000 + os.getpid() % 10000
    more = [] if hostfile is None else ["--hostfile", hostfile]
    command = [
        sys.executable, str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks),
        "--master_port", str(port), *more, str(ROOT / "launch" / "pretrain.py"),
        "--recipe", str(inputs / "recipe.yaml"), "--data", str(inputs / "shards"),
        "--output", str(run), *overrides,
    ]  # fmt: skip
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)


def processes_of(run: Path) -> list[int]:
    """Return all processes on this machine started for `run`, including launchers."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"{MARK}={run}\0".encode() in (entry / "environ").read_bytes() + b"\0":
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run folder; its processes are killed after the test."""
    folder = tmp_path / "run"
    yield folder
    for process in processes_of(folder):
        os.kill(process, signal.SIGKILL)


def test_when_the_launcher_is_killed_the_ranks_save_and_leave(
    inputs: Path, undisturbed: Path, run: Path
) -> None:
    launcher = launch(inputs, run, "checkpoint.every_tokens=1M")
    log = run / "log.jsonl"
    wait_for(lambda: log.exists() and len(step_losses(run)) >= 3, 150)
    launcher.send_signal(signal.SIGTERM)  # `deepspeed` dies of it and tells nobody
    assert launcher.wait(30) == -signal.SIGTERM
    wait_for(lambda: not processes_of(run), 60)
    (stopped,) = events(run, "stopped")
    assert "the launcher" in stopped["text"]
    assert "is gone" in stopped["text"]
    options = options_for(inputs, run)
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert step_losses(run) == step_losses(undisturbed)


def test_a_port_that_is_taken_is_named(inputs: Path, run: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert launch(inputs, run, ranks=1, port=port).wait(150) == 2
    said = run.with_suffix(".log").read_text()
    assert f"address 127.0.0.1:{port} is already in use" in said
    assert "--master_port" in said
    assert "Traceback" not in said


def test_a_hostfile_that_is_not_there_is_refused(inputs: Path, run: Path) -> None:
    """`deepspeed` only warns, and trains on this machine alone."""
    assert launch(inputs, run, ranks=1, hostfile="hosts-of-mine").wait(150) == 2
    said = run.with_suffix(".log").read_text()
    assert said.count("hostfile hosts-of-mine does not exist") == 1
    assert not run.exists()


def test_status_75_comes_through_the_launcher(inputs: Path, run: Path) -> None:
    run.mkdir()
    (run / "STOP").touch()
    assert launch(inputs, run).wait(150) == 75
    assert not processes_of(run)
