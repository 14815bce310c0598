"""Requests travel with a step's scalars, without a message of their own, and reach all ranks."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mmbert.errors import UserError
from mmbert.parallel.host_group import HostGroup
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.fault_tolerance.loop_requests import LoopRequests, RequestCounts
from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.support.small_run import events, options_for, step_losses

# One phase of ten steps, in which nothing is saved before its end.
QUIET = ("checkpoint.every_tokens=1M",)


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").iterdir())


def run_with(
    inputs: Path, run: Path, overrides: tuple[str, ...], before: Any, *arguments: Any
) -> tuple[list[int | None], str]:
    """Train the first phase on two ranks; return statuses and output."""
    options = options_for(inputs, run, *overrides, stop_after_phase="pretrain")
    statuses = exit_statuses(start_ranks(options, before=before, arguments=arguments))
    return statuses, output_of(options)


def continues(inputs: Path, run: Path, overrides: tuple[str, ...]) -> bool:
    """Return whether the same command trains the rest of the phase."""
    options = options_for(inputs, run, *overrides, stop_after_phase="pretrain")
    return run_to_the_end(options) == [0, 0]


def test_in_an_ordinary_step_the_hosts_send_each_other_nothing(
    inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    statuses, said = run_with(
        inputs, tmp_path / "run", (*QUIET, "logging.every_steps=5"),
        fault_injection.record_messages, tmp_path / "notes",
    )  # fmt: skip
    assert statuses == [0, 0], said
    for rank in range(2):
        lines = (tmp_path / "notes" / f"messages-{rank}.txt").read_text().splitlines()
        found = [tuple(line.split(" ", 2)) for line in lines]
        # The loader begins; the log's lines after steps 4 and 9; the end of the phase.
        assert {int(step) for step, _, _ in found} == {0, 4, 9, 10}, found
        assert [kind for step, kind, _ in found if step == "4"] == ["sum", "gather_numbers"]
        asked = [
            (step, kind) for step, kind, activity in found if activity == Activity.SYNC_REQUESTS
        ]
        assert asked[0] == ("0", "sum")
        assert ("9", "gather_numbers", Activity.TRAIN_STEP) in found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_tensor_rank_that_is_not_the_first_stops_all(
    inputs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run, overrides = tmp_path / "run", (*QUIET, "parallel.tensor=2")
    statuses, said = run_with(
        inputs, run, overrides, fault_injection.signal_at, 1, 3, Activity.TRAIN_STEP, number
    )
    assert statuses == [75, 75], said
    (stopped,) = events(run, "stopped")
    assert stopped["step"] == 4
    assert number.name in stopped["text"]
    assert checkpoints(run) == [4]
    assert continues(inputs, run, overrides)
    assert sorted(step_losses(run)) == list(range(1, 11))


def test_who_is_to_stop_from_the_start_does_no_step(inputs: Path, tmp_path: Path) -> None:
    for name, before, arguments in (
        ("file", lay_a_stop_file, (tmp_path / "file" / "STOP",)),
        (
            "signal",
            fault_injection.signal_at,
            (1, 0, Activity.CHECK_MEMORY, signal.SIGTERM),
        ),
    ):
        run = tmp_path / name
        statuses, said = run_with(inputs, run, QUIET, before, *arguments)
        assert statuses == [75, 75], said
        assert events(run, "stopped")[-1]["step"] == 0
        assert events(run, "held-out") == []
        assert step_losses(run) == {}
        assert checkpoints(run) == [0]
        assert continues(inputs, run, QUIET)
        assert sorted(step_losses(run)) == list(range(1, 11))


def lay_a_stop_file(rank: int, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch()


def test_a_stop_is_heard_while_steps_are_passed_over(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "skipped_steps.json").write_text(json.dumps({"steps": [3, 4, 5], "rollbacks": 1}))
    statuses, said = run_with(
        inputs, run, QUIET, fault_injection.signal_at, 1, 4, Activity.READ_ROWS, signal.SIGTERM
    )
    assert statuses == [75, 75], said
    assert [event["step"] for event in events(run, "passed over")] == [3, 4]
    assert events(run, "stopped")[-1]["step"] == 5
    assert checkpoints(run) == [5]
    assert continues(inputs, run, QUIET)
    assert [event["step"] for event in events(run, "passed over")] == [3, 4, 5]
    assert sorted(step_losses(run)) == [1, 2, 3, 7, 8, 9, 10]


def test_a_stop_is_heard_in_a_step_that_is_not_finite(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    statuses, said = run_with(
        inputs, run, QUIET, fault_injection.signal_too, 1, 3, Activity.TRAIN_STEP, signal.SIGTERM,
        fault_injection.poison_row, 13,
    )  # fmt: skip
    assert statuses == [75, 75], said
    assert [event["step"] for event in events(run, "not finite")] == [3]
    assert events(run, "stopped")[-1]["step"] == 4
    assert checkpoints(run) == [4]


def test_a_stop_in_a_spike_stops_where_the_run_has_gone_back_to(
    inputs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    overrides = ("phases.pretrain.tokens=20k", "guard.rollback=true")
    statuses, said = run_with(
        inputs, run, overrides, fault_injection.signal_too, 1, 13, Activity.TRAIN_STEP,
        signal.SIGTERM, fault_injection.fake_spike, 13 * 4,
    )  # fmt: skip
    assert statuses == [75, 75], said
    assert [event["step"] for event in events(run, "rollback")] == [12]
    assert events(run, "stopped")[-1]["step"] == 12
    assert checkpoints(run)[-1] == 12
    # The next start compares the step with the spike before the stop: it is in the data.
    statuses, said = run_with(inputs, run, overrides, fault_injection.fake_spike, 13 * 4)
    assert statuses == [0, 0], said
    assert [event["step"] for event in events(run, "spike")] == [13]
    assert [event["step"] for event in events(run, "rollback")] == [12, 12]
    assert [event["step"] for event in events(run, "passed over")] == [12, 13]
    assert max(step_losses(run)) == 20


def test_a_checkpoint_that_is_due_by_minutes_is_written_once(inputs: Path, tmp_path: Path) -> None:
    """It is written before the next step; after step 3 one by tokens is due as well."""
    run = tmp_path / "run"
    statuses, said = run_with(
        inputs, run, ("checkpoint.every_tokens=4k", "checkpoint.every_minutes=100"),
        fault_injection.let_minutes_pass, 101.0, (3, 5), Activity.TRAIN_STEP,
    )  # fmt: skip
    assert statuses == [0, 0], said
    written = [(event["step"], event["text"]) for event in events(run, "checkpoint")]
    assert [step for step, _ in written] == [4, 6, 8, 10]
    assert "(token interval)" in written[0][1]
    assert "(time)" in written[1][1]


def test_the_ranks_wishes_become_one() -> None:
    """In one process nothing is sent. A request with a count of 0 is dropped."""
    alone, failure = HostGroup(0, 1), UserError("no room", remedy="make some")
    own = LoopRequests(stop="enough", save=True, failure=failure)
    assert own.flags() == RequestCounts(stop=1, save=1, failure=1)
    assert own.resolve(RequestCounts(stop=2, save=1, failure=1), alone) == own
    assert own.resolve(RequestCounts(stop=0, save=0, failure=0), alone) == LoopRequests()
    only_save = RequestCounts(stop=0, save=3, failure=0)
    assert LoopRequests().resolve(only_save, alone) == LoopRequests(save=True)
