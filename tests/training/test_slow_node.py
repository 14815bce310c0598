"""A slow node is named in the log and in the journal of nodes, in real runs on two ranks."""

import socket
from pathlib import Path

import pytest

from mmbert.journals.run_journal import NODE_REPORTS_NAME, NodeProblem, NodeReport, read_records
from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, start_ranks
from tests.support.small_run import events, log_of, options_for

# Only training: nothing is saved or validated before the end.
QUIET = ("checkpoint.every_tokens=1M", "evaluation.every_tokens=null", "logging.every_steps=10")
SIZE = ("model.hidden_size=64", "model.intermediate_size=96")


def train(inputs: Path, run: Path, steps: int, share: float, *overrides: str) -> str:
    """Train for `steps`, with rank 1 slower by `share`; return the output."""
    options = options_for(
        inputs,
        run,
        *(*QUIET, *overrides, f"phases.pretrain.tokens={1024 * steps}"),
        stop_after_phase="pretrain",
    )
    ranks = start_ranks(options, before=fault_injection.slow_down, arguments=(1, share))
    statuses, said = exit_statuses(ranks, timeout=1800), output_of(options)
    assert statuses == [0, 0], said
    return said


@pytest.mark.timeout(1800)
def test_a_rank_that_is_much_slower_is_named_once(inputs: Path, tmp_path: Path) -> None:
    said = train(inputs, tmp_path / "run", 100, 1.0)
    (event,) = events(tmp_path / "run", "slow")
    assert event["step"] <= 100
    assert event["host"] == socket.gethostname()
    assert set(event["excess"]) == {"1"}
    assert event["excess"]["1"] > 0.4
    assert event["text"] in said
    (report,) = read_records(tmp_path / "run" / NODE_REPORTS_NAME, NodeReport)
    assert (report.host, report.problem, report.rank, report.exclude) == (
        socket.gethostname(), NodeProblem.SLOW, 1, False,
    )  # fmt: skip
    assert report.step == event["step"]
    assert report.detail in event["text"]
    last = [line for line in log_of(tmp_path / "run") if "own_work_max_rank" in line][-1]
    assert last["own_work_max_rank"] == 1
    assert last["own_work_max_over_median"] > 1.4
    # The other rank waits while this one is busy.
    assert last["waiting_seconds_per_row"] > 0


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_rank_slowed_by_15_percent_is_named_within_100_steps(
    inputs: Path, tmp_path: Path
) -> None:
    train(inputs, tmp_path / "run", 100, 0.15, *SIZE)
    (event,) = events(tmp_path / "run", "slow")
    assert set(event["excess"]) == {"1"}


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_in_ten_undisturbed_runs_nobody_is_named(inputs: Path, tmp_path: Path) -> None:
    for number in range(10):
        run = tmp_path / f"run-{number}"
        train(inputs, run, 120, 0.0, *SIZE)
        assert [event["text"] for event in events(run, "slow")] == []
        assert not (run / NODE_REPORTS_NAME).exists()
