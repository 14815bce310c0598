"""Steps that run again after a fault: who is suspected, and that the run is as if undisturbed."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from mmbert.journals.run_journal import NODE_REPORTS_NAME, NodeProblem, NodeReport, read_records
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.support.small_run import events, log_of, options_for, step_losses

NAN = float("nan")
# They are in every tenth line, counted since the start, and the losses are means since the last.
LANGUAGES = "by_language"
TWO_HOSTS = ("n1", "n2")
# A phase of 20 steps: spikes are seen from the eleventh on.
LONGER = ("phases.pretrain.tokens=20k",)


def reports(run: Path) -> list[NodeReport]:
    return list(read_records(run / NODE_REPORTS_NAME, NodeReport))


def records(run: Path, left_out: str) -> dict[int, dict[str, Any]]:
    """Return the records of intervals by step, without keys that contain what is `left_out`."""
    pattern = re.compile(left_out)
    return {
        entry["step"]: {key: value for key, value in entry.items() if not pattern.search(key)}
        for entry in log_of(run)
        if "step_loss" in entry
    }


def checkpoint(run: Path, step: int) -> dict[str, bytes]:
    """Return the weights and optimizer states in the checkpoint of `step`, by file."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    found = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert found
    return found


def assert_same_run(run: Path, other: Path, *, end: int, without: str = "") -> None:
    """Metrics, weights and optimizer states are equal to the bit up to `end`.

    Except what is measured by the clock, and keys with the words `without`.
    """
    left_out = "|".join(filter(None, ("time|second|memory|mfu|own_work", without)))
    ours, theirs = records(run, left_out), records(other, left_out)
    assert ours == {step: found for step, found in theirs.items() if step <= end}
    assert checkpoint(run, end) == checkpoint(other, end)


def test_a_step_computed_wrongly_once_is_as_if_undisturbed_and_its_host_suspected(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Only the second time is the host left out. Meanwhile a stop is requested, and honored."""
    options = options_for(inputs, tmp_path / "run", stop_after_phase="pretrain")
    ranks = start_ranks(
        options,
        before=fault_injection.signal_too,
        arguments=(
            *(0, 6, Activity.REPEAT_STEP, signal.SIGTERM),
            *(fault_injection.miscompute, 1, {3: 1, 6: 1}, NAN, TWO_HOSTS),
        ),
    )
    assert exit_statuses(ranks) == [75, 75], output_of(options)
    assert events(options.output, "stopped")[-1]["step"] in (7, 8)
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert_same_run(options.output, undisturbed, end=10, without=LANGUAGES)
    assert not events(options.output, "not finite")
    found = events(options.output, "wrong result")
    assert [(e["step"], e["hosts"], e["ranks"], e["exclude"]) for e in found] == [
        (3, ["n2"], [1], False),
        (6, ["n2"], [1], True),
    ]
    assert len(found[0]["rows"]) == 1
    assert found[0]["text"] in output_of(options)
    said = [(r.step, r.rank, r.host, r.problem, r.exclude) for r in reports(options.output)]
    assert said == [
        (3, 1, "n2", NodeProblem.WRONG, False),
        (6, 1, "n2", NodeProblem.WRONG, True),
    ]


def test_a_host_that_fails_where_another_does_not_ends_the_run_and_is_left_out(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(
        inputs, tmp_path / "run", "checkpoint.every_tokens=1M", stop_after_phase="pretrain"
    )
    ranks = start_ranks(
        options, before=fault_injection.miscompute, arguments=(1, {3: 99}, NAN, TWO_HOSTS)
    )
    assert exit_statuses(ranks) == [1, 1], output_of(options)
    assert "SanityError: step 3 cannot be computed on host n2" in output_of(options)
    (report,) = reports(options.output)
    assert (report.host, report.exclude) == ("n2", True)
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert min(step_losses(options.output)) == 1
    assert_same_run(options.output, undisturbed, end=10, without=LANGUAGES)
    assert "continuing from" in output_of(options)  # the state was saved


@pytest.mark.parametrize(
    "optimizer", ["stable_adamw", pytest.param("normuon", marks=pytest.mark.long)]
)
def test_a_spike_that_does_not_repeat_is_undone(
    optimizer: str, inputs: Path, tmp_path: Path
) -> None:
    overrides = (*LONGER, "guard.rollback=true", f"optimizer.name={optimizer}")
    options, plain = (
        options_for(inputs, tmp_path / name, *overrides, stop_after_phase="pretrain")
        for name in ("run", "plain")
    )
    ranks = [
        start_ranks(plain),
        start_ranks(
            options, before=fault_injection.miscompute, arguments=(1, {13: 1}, 100.0, TWO_HOSTS)
        ),
    ]
    for each in ranks:
        assert exit_statuses(each) == [0, 0], output_of(options) + output_of(plain)
    assert_same_run(options.output, plain.output, end=20, without=LANGUAGES)
    assert [event["step"] for event in events(options.output, "spike")] == [13]
    assert [event["step"] for event in events(options.output, "rollback")] == [12]
    (cost,) = events(options.output, "repetition")
    assert "costs 2 steps" in cost["text"]
    assert not (options.output / "skipped_steps.json").exists()
    (found,) = events(options.output, "wrong result")
    assert (found["step"], found["hosts"], found["ranks"]) == (13, ["n2"], [1])
    assert [(r.host, r.exclude) for r in reports(options.output)] == [("n2", False)]


def test_a_fault_that_no_loss_shows_is_undone_and_nobody_is_blamed(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", stop_after_phase="pretrain")
    ranks = start_ranks(options, before=both_at_step_3, arguments=(TWO_HOSTS,))
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    assert_same_run(options.output, undisturbed, end=10)
    (found,) = events(options.output, "wrong result")
    assert found["hosts"] == ["n1", "n2"]
    assert "not attributable to one host of n1, n2" in found["text"]
    assert reports(options.output) == []


def both_at_step_3(rank: int, hosts: tuple[str, ...]) -> None:
    """Fail in a backward pass of rank 1 at step 3, on pretended hosts."""
    fault_injection.miscompute(rank, 1, {}, 1.0, hosts)
    fault_injection.miscompute_gradients(rank, 1, 3)


def test_without_determinism_differences_within_the_tolerance_are_data(
    inputs: Path, tmp_path: Path
) -> None:
    """Row 13 is not finite on any rank; row 20 or its neighbor only once."""
    options = options_for(inputs, tmp_path / "run", stop_after_phase="pretrain")
    ranks = start_ranks(
        options,
        before=fault_injection.compute_with_noise,
        arguments=(1e-5, poison_and_miscompute, 13, {5: 1}),
    )
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    assert [event["step"] for event in events(options.output, "not finite")] == [3]
    assert [event["step"] for event in events(options.output, "wrong result")] == [5]
    assert "3 runs of step 0 differ by at most" in output_of(options)


def poison_and_miscompute(rank: int, row: int, times: dict[int, int]) -> None:
    """Combine two faults, on pretended hosts."""
    fault_injection.poison_row(rank, row)
    fault_injection.miscompute(rank, 1, times, NAN, TWO_HOSTS)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("overrides", "world_size", "victims"),
    [
        (("parallel.zero_stage=1", "precision=bfloat16"), 2, [1]),
        (("parallel.zero_stage=2",), 2, [1]),
        (("parallel.zero_stage=3",), 2, [1]),
        (("parallel.zero_stage=3", "precision=bfloat16"), 2, [1]),
        (("parallel.tensor=2", "parallel.zero_stage=2"), 4, [2]),
        (("optimizer.gradient_clipping=0.5", "optimizer.name=adamw"), 1, [0]),
        (("parallel.zero_stage=2", "optimizer.name=normuon"), 2, [1]),
        (("parallel.tensor=2", "parallel.zero_stage=3", "optimizer.name=normuon"), 4, [2]),
    ],
)
def test_on_any_grid_a_step_that_ran_again_leaves_no_trace(
    inputs: Path, tmp_path: Path, overrides: tuple[str, ...], world_size: int, victims: list[int]
) -> None:
    """Nor do steps that are only measured. Every rank has several microbatches."""
    runs: dict[str, Any] = {
        "plain": {},
        "measured": {"before": fault_injection.measure_first},
        "faulty": {
            "before": fault_injection.miscompute,
            "arguments": (victims[0], {3: 1}, NAN),
        },
    }
    for name, fault in runs.items():
        options = options_for(inputs, tmp_path / name, *overrides, stop_after_phase="pretrain")
        statuses = run_to_the_end(options, world_size=world_size, **fault)
        assert statuses == [0] * world_size, output_of(options)
        assert_same_run(options.output, tmp_path / "plain", end=10)
    (found,) = events(tmp_path / "faulty", "wrong result")
    assert found["ranks"] == victims


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_repetition_of_a_spike_continues_after_a_stop(inputs: Path, tmp_path: Path) -> None:
    plain = options_for(inputs, tmp_path / "plain", *LONGER, stop_after_phase="pretrain")
    assert run_to_the_end(plain) == [0, 0], output_of(plain)
    options = options_for(inputs, tmp_path / "run", *LONGER, stop_after_phase="pretrain")
    ranks = start_ranks(options, before=spike_and_stop_in_the_repetition, arguments=({13: 1}, 12))
    assert exit_statuses(ranks) == [75, 75], output_of(options)
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert_same_run(options.output, plain.output, end=20, without=LANGUAGES)
    assert len(events(options.output, "spike")) == 1
    (found,) = events(options.output, "wrong result")
    assert found["ranks"] == [1]


def spike_and_stop_in_the_repetition(rank: int, times: dict[int, int], step: int) -> None:
    """Make rank 1 compute a spike, and ask for a stop when `step` is trained a second time."""
    fault_injection.miscompute(rank, 1, times, 100.0)
    seen = []

    def noting(original: Any) -> Any:
        def heartbeat(trainer: Any, what: Activity) -> None:
            original(trainer, what)
            if (trainer.step, what) == (step, Activity.TRAIN_STEP):
                seen.append(step)
                if len(seen) == 2 and rank == 0:
                    signal.raise_signal(signal.SIGTERM)

        return heartbeat

    fault_injection.TRAINER_HEARTBEAT.wrap(noting)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_without_determinism_a_spike_repeats_if_it_is_one_again(
    inputs: Path, tmp_path: Path
) -> None:
    """The spike of step 13 is in the data, that of step 16 a fault of rank 1."""
    options = options_for(inputs, tmp_path / "run", *LONGER, stop_after_phase="pretrain")
    ranks = start_ranks(
        options,
        before=fault_injection.compute_with_noise,
        arguments=(1e-5, spike_and_miscompute, 13 * 4, {16: 1}),
    )
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    assert [event["step"] for event in events(options.output, "spike")] == [13, 16]
    told = [event["text"] for event in events(options.output, "repetition")]
    assert ["data or numerics" in text for text in told] == [False, True, False]
    (found,) = events(options.output, "wrong result")
    assert (found["step"], found["ranks"]) == (16, [1])


def spike_and_miscompute(rank: int, row: int, times: dict[int, int]) -> None:
    """Combine two faults, on pretended hosts."""
    fault_injection.fake_spike(rank, row)
    fault_injection.miscompute(rank, 1, times, 100.0, TWO_HOSTS)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_spikes_without_a_checkpoint_or_beyond_the_limit_are_only_reported(
    inputs: Path, tmp_path: Path
) -> None:
    options = options_for(
        inputs, tmp_path / "run", *LONGER, "checkpoint.every_tokens=1M",
        stop_after_phase="pretrain",
    )  # fmt: skip
    ranks = start_ranks(options, before=fault_injection.fake_spike, arguments=(13 * 4,))
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    (event,) = events(options.output, "no rollback")
    assert "no checkpoint lies before it" in event["text"]
    assert not [entry for entry in log_of(options.output) if entry.get("event") == "rollback"]
