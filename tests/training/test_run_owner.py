"""A run folder has one owner: second runs, takeovers, and a former owner that wakes."""

import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from mmbert.checkpoint import writer
from mmbert.ownership import OWNER_NAME
from mmbert.training.fault_tolerance.watchdog import Activity
from tests.support import fault_injection
from tests.support.job_processes import (
    exit_statuses,
    output_of,
    run_to_the_end,
    start_ranks,
    wait_for,
)
from tests.support.small_run import events, options_for, step_losses

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


def wait_until_suspended(process: BaseProcess) -> None:
    """Wait until the process has stopped itself."""
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


@pytest.mark.parametrize("moment", ["in a step", "before a commit"])
def test_a_suspended_run_is_refused_then_followed_and_writes_no_more(
    inputs: Path, tmp_path: Path, moment: str
) -> None:
    options = options_for(inputs, tmp_path / "run", *SHORT, stop_after_phase="pretrain")
    if moment == "in a step":
        first = start_ranks(
            options,
            before=fault_injection.signal_at,
            arguments=(0, 5, Activity.READ_ROWS, signal.SIGSTOP),
        )
    else:
        first = start_ranks(options, before=stop_before_the_commit, arguments=(10,))
    wait_until_suspended(first[0])
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
    assert "gave no sign of life for 200 s" in output_of(options)
    assert not owner.exists()
    after = contents(options.output)
    assert [name for name in after if name.endswith("index.json")] == [
        "checkpoints/step-00000010/index.json"
    ]
    assert first[0].pid is not None
    os.kill(first[0].pid, signal.SIGCONT)
    assert exit_statuses(first) == [2, 2], output_of(options)
    assert f"this process ({first[0].pid} on " in output_of(options)
    assert contents(options.output) == after


def test_a_requeued_job_and_take_over_need_not_wait(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", *SHORT, stop_after_phase="pretrain")
    first = start_ranks(options, world_size=1, before=suspended_in_slurm, arguments=(3,))
    wait_until_suspended(first[0])
    again = run_to_the_end(options, world_size=1, before=in_slurm, arguments=("0",))
    assert again == [2], "a second step of the same start of the job"
    second = start_ranks(options, world_size=1, before=in_slurm, arguments=("1",))
    assert exit_statuses(second) == [0], output_of(options)
    assert "was ended by Slurm" in output_of(options)
    assert first[0].pid is not None
    os.kill(first[0].pid, signal.SIGCONT)
    assert exit_statuses(first) == [2], output_of(options)

    whole = options_for(inputs, options.output, *SHORT)
    third = start_ranks(
        whole,
        world_size=1,
        before=fault_injection.signal_at,
        arguments=(0, 12, Activity.READ_ROWS, signal.SIGSTOP),
    )
    wait_until_suspended(third[0])
    forced = options_for(inputs, options.output, *SHORT, take_over=True)
    assert run_to_the_end(forced, world_size=1) == [0], output_of(options)
    assert "was told to give way" in output_of(options)
    assert third[0].pid is not None
    os.kill(third[0].pid, signal.SIGCONT)
    assert exit_statuses(third) == [2], output_of(options)
    assert step_losses(options.output).keys() == step_losses(undisturbed).keys()
    assert not events(options.output, "stopped")


def test_the_owner_file_goes_with_its_run(inputs: Path, tmp_path: Path) -> None:
    """Of a run that is killed it stays, and the next start on the host follows at once."""
    options = options_for(inputs, tmp_path / "run", *SHORT, stop_after_phase="pretrain")
    wrong = options_for(inputs, options.output, "data.sources.text.max_epochs=0.001")
    assert run_to_the_end(wrong, world_size=1) == [2]
    assert not (options.output / OWNER_NAME).exists()
    (options.output / "STOP").touch()
    assert run_to_the_end(options, world_size=1) == [75], output_of(options)
    assert not (options.output / OWNER_NAME).exists()
    arguments = (0, 4, Activity.READ_ROWS, signal.SIGKILL)
    killed = start_ranks(
        options, world_size=1, before=fault_injection.signal_at, arguments=arguments
    )
    assert exit_statuses(killed) == [-signal.SIGKILL]
    assert (options.output / OWNER_NAME).exists()
    assert run_to_the_end(options, world_size=1) == [0], output_of(options)
    assert f"process {killed[0].pid} on" in output_of(options)
    assert not (options.output / OWNER_NAME).exists()
