"""A run folder has one owner: second runs, takeovers, and a former owner that wakes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmbert.checkpoint import writer
from mmbert.ownership import OWNER_NAME, Lease, OwnershipLostError, take_folder
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.loop import handle_requests
from mmbert.training.run_config import RunOptions
from mmbert.training.trainer import Trainer
from tests.support import fault_injection
from tests.support.job_processes import (
    exit_statuses,
    output_of,
    run_to_the_end,
    start_ranks,
    wait_for,
)
from tests.support.small_run import STEPS, log_of, options_for

SHORT = ("checkpoint.every_tokens=1M",)


def contents(run: Path) -> dict[str, bytes]:
    """Return every file of the run."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


def stop_before_the_commit(rank: int, step: int) -> None:
    """Suspend rank 0 when the checkpoint of `step` has all its files but not its name."""

    def commit(job: Any, *arguments: Any) -> None:
        if job.state.step == step:
            os.kill(os.getpid(), signal.SIGSTOP)
        original(job, *arguments)

    original = writer.commit
    writer.commit = commit


def in_slurm(rank: int, restart: str) -> None:
    """Run as a start of a Slurm job."""
    os.environ.update(SLURM_JOB_ID="77", SLURM_RESTART_COUNT=restart)


def suspended_in_slurm(rank: int, step: int) -> None:
    """Suspend rank 0 of the first start of a Slurm job."""
    in_slurm(rank, "0")
    fault_injection.signal_at(rank, 0, step, Activity.READ_ROWS, signal.SIGSTOP)


@contextmanager
def suspended(options: RunOptions, **more: Any) -> Iterator[list[BaseProcess]]:
    """Start ranks of which rank 0 suspends itself; end them after the block."""
    ranks = start_ranks(options, **more)
    stat = Path(f"/proc/{ranks[0].pid}/stat")
    try:
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()


def wake(ranks: list[BaseProcess]) -> list[int | None]:
    """Wake rank 0 and return the exit statuses of all."""
    assert ranks[0].pid is not None
    os.kill(ranks[0].pid, signal.SIGCONT)
    return exit_statuses(ranks)


@pytest.mark.parametrize("moment", ["in a step", "before a commit"])
def test_a_suspended_run_is_refused_then_followed_and_writes_no_more(
    inputs: Path, tmp_path: Path, moment: str
) -> None:
    options = options_for(inputs, tmp_path / "run", *SHORT, stop_after_phase="pretrain")
    if moment == "in a step":
        at: tuple[Any, ...] = (0, 5, Activity.READ_ROWS, signal.SIGSTOP)
        fault: dict[str, Any] = {"before": fault_injection.signal_at, "arguments": at}
    else:
        fault = {"before": stop_before_the_commit, "arguments": (10,)}
    with suspended(options, **fault) as first:
        before = contents(options.output)
        assert run_to_the_end(options, world_size=1) == [2]
        named = f"the run {options.output} is being written by process {first[0].pid} on "
        assert named in output_of(options)
        assert "--take-over" in output_of(options)
        assert contents(options.output) == before, "a refused run has written"

        owner = options.output / OWNER_NAME
        now = owner.stat().st_mtime
        os.utime(owner, (now - 200, now - 200))  # as after 200 s without a renewal
        assert run_to_the_end(options, world_size=1) == [0], output_of(options)
        assert "gave no sign of life for 2" in output_of(options)
        assert not owner.exists()
        after = contents(options.output)
        saved = [name for name in after if name.endswith("index.json")]
        assert saved == ["checkpoints/step-00000010/index.json"]
        assert wake(first) == [2, 2], output_of(options)
        assert f"this process ({first[0].pid} on " in output_of(options)
        assert contents(options.output) == after


def test_a_requeued_job_and_take_over_need_not_wait(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path / "run", *SHORT, stop_after_phase="pretrain")
    one: dict[str, Any] = {"world_size": 1}
    with suspended(options, before=suspended_in_slurm, arguments=(3,), **one) as first:
        again = run_to_the_end(options, before=in_slurm, arguments=("0",), **one)
        assert again == [2], "a second step of the same start of the job"
        requeued = run_to_the_end(options, before=in_slurm, arguments=("1",), **one)
        assert requeued == [0], output_of(options)
        assert "was ended by Slurm" in output_of(options)
        assert wake(first) == [2], output_of(options)
    whole = options_for(inputs, options.output, *SHORT)
    at = (0, 12, Activity.READ_ROWS, signal.SIGSTOP)
    with suspended(whole, before=fault_injection.signal_at, arguments=at, **one) as second:
        forced = options_for(inputs, options.output, *SHORT, take_over=True)
        assert run_to_the_end(forced, **one) == [0], output_of(options)
        assert "was told to give way" in output_of(options)
        assert wake(second) == [2], output_of(options)
    steps = [entry["step"] for entry in log_of(options.output) if "step_loss" in entry]
    assert steps[-10:] == list(range(13, STEPS + 1)), "the last owner wrote the end of the log"


def test_a_loss_that_the_lease_found_ends_the_run_without_a_save(tmp_path: Path) -> None:
    """A step that writes nothing learns of it from the thread, as all ranks do."""
    with take_folder(tmp_path, lease=Lease(renewal=0.01)) as owner:
        (tmp_path / OWNER_NAME).unlink()
        wait_for(lambda: owner.lost is not None)
        trainer: Any = SimpleNamespace(
            stop=SimpleNamespace(reason=lambda: None),
            checkpoints=SimpleNamespace(time_save_is_due=lambda: True),
            metrics=SimpleNamespace(loggers=SimpleNamespace(failure=None)),
            ranks=SimpleNamespace(owner=owner),
        )
        requests = Trainer.pending_requests(trainer)
        assert requests.flags() == (0, 1, 1)
        with pytest.raises(OwnershipLostError):
            handle_requests(trainer, requests)  # would need `trainer.save`


def test_the_owner_file_goes_with_its_run(inputs: Path, tmp_path: Path) -> None:
    """Of a run that is killed it stays, and the next start on the host follows at once."""
    options = options_for(inputs, tmp_path / "run", *SHORT, stop_after_phase="pretrain")
    owner = options.output / OWNER_NAME
    options.output.mkdir()
    (options.output / "STOP").touch()
    assert run_to_the_end(options, world_size=1) == [75], output_of(options)
    assert not owner.exists()
    at = (0, 4, Activity.READ_ROWS, signal.SIGKILL)
    killed = start_ranks(options, world_size=1, before=fault_injection.signal_at, arguments=at)
    assert exit_statuses(killed) == [-signal.SIGKILL]
    assert owner.exists()
    other = options_for(inputs, options.output, "seed=4", stop_after_phase="pretrain")
    assert run_to_the_end(other, world_size=1) == [2]
    assert "was trained with seed=3" in output_of(options)
    assert not owner.exists(), "an error of the user leaves no owner"
