"""Faults injected into real ranks; after each, the run ends like an undisturbed one."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmbert.checkpoint.format import Index, RunState
from mmbert.data.loading.replay import documents_of_step
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.journals.rank_failures import FailureKind, read_failures
from mmbert.journals.run_journal import NODE_REPORTS_NAME
from mmbert.recipe import Recipe, load_recipe
from mmbert.schedule import TrainingPlan, training_plan
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.run_config import RunOptions
from tests.support import fault_injection
from tests.support.environment import ROOT, with_packages
from tests.support.job_processes import (
    exit_statuses,
    failures_of,
    output_of,
    run_to_the_end,
    start_ranks,
)
from tests.support.small_run import events, log_of, options_for, step_losses


def state_at(run: Path, step: int) -> RunState:
    """Return the run state in the checkpoint of `step`."""
    return Index.read(run / "checkpoints" / f"step-{step:08d}").state


def killed(statuses: list[int | None], victim: int) -> bool:
    """Whether SIGKILL ended the victim and the other rank exited by itself with a failure."""
    return statuses[victim] == -signal.SIGKILL and statuses[1 - victim] == 1


def test_killed_again_and_again_it_is_the_same_run(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run")
    for victim, step, activity in (
        (1, 2, Activity.TRAIN_STEP),
        (0, 8, Activity.SAVE_CHECKPOINT),
        (1, 10, Activity.VALIDATE),
        (0, 15, Activity.READ_ROWS),
    ):
        ranks = start_ranks(
            options,
            before=fault_injection.signal_at,
            arguments=(victim, step, activity, signal.SIGKILL),
        )
        assert killed(exit_statuses(ranks), victim), output_of(options)
        reported = read_failures(failures_of(options))
        assert [(one.rank, one.kind) for one in reported] == [(1 - victim, FailureKind.PEER)]
        shutil.rmtree(failures_of(options))
    ranks = start_ranks(options, before=fault_injection.kill_while_writing, arguments=(1, 20))
    assert killed(exit_statuses(ranks), 1), output_of(options)
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert step_losses(options.output) == step_losses(undisturbed)
    left = [path.name for path in (options.output / "checkpoints").iterdir()]
    assert all(name.startswith("step-") for name in left)


def test_asked_to_stop_it_saves_leaves_with_75_and_continues(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Log lines every third step: a stop keeps what was counted between two lines, too."""
    overrides = ("checkpoint.every_tokens=1M", "logging.every_steps=3")
    options = options_for(inputs, tmp_path / "run", *overrides)
    for victim, step, number in ((1, 3, signal.SIGTERM), (0, 7, signal.SIGUSR1)):
        ranks = start_ranks(
            options,
            before=fault_injection.signal_at,
            arguments=(victim, step, Activity.TRAIN_STEP, number),
        )
        assert exit_statuses(ranks) == [75, 75], output_of(options)
        stopped = events(options.output, "stopped")[-1]
        assert stopped["step"] == step + 1  # the running step is finished first
        assert signal.Signals(number).name in stopped["text"]
        saved = sorted((options.output / "checkpoints").iterdir())
        assert saved[-1].name == f"step-{step + 1:08d}"
    (options.output / "STOP").touch()
    assert run_to_the_end(options) == [75, 75], output_of(options)
    assert not (options.output / "STOP").exists()
    assert events(options.output, "stopped")[-1]["step"] == 8
    assert run_to_the_end(options) == [0, 0], output_of(options)
    losses = step_losses(options.output)
    assert losses == {step: step_losses(undisturbed)[step] for step in losses}
    for step in (10, 16, 22):
        ours, theirs = (state_at(run, step) for run in (options.output, undisturbed))
        assert ours.language_tokens == theirs.language_tokens
        assert ours.extra == theirs.extra  # state of the loss monitor, and tokens by component
        assert len(ours.extra["guard"]["history"]) == {10: 10, 16: 6, 22: 6}[step]


def test_a_rank_that_hangs_or_is_stopped_is_named(inputs: Path, tmp_path: Path) -> None:
    # Enough for a step on a busy machine; the three runs wait at the same time.
    limit = "guard.hang_minutes=0.25"
    hanging = options_for(inputs, tmp_path / "hanging", limit)
    stopped = options_for(inputs, tmp_path / "stopped", limit)
    stopped_first = options_for(inputs, tmp_path / "stopped_first", limit)
    ranks_of_hanging = start_ranks(
        hanging, before=fault_injection.hang_at, arguments=(1, 3, Activity.READ_ROWS)
    )
    ranks_of_stopped = start_ranks(
        stopped,
        before=fault_injection.signal_at,
        arguments=(1, 3, Activity.TRAIN_STEP, signal.SIGSTOP),
    )
    # The watchdogs' store is in rank 0, and does not answer either.
    ranks_of_stopped_first = start_ranks(
        stopped_first,
        before=fault_injection.signal_at,
        arguments=(0, 3, Activity.TRAIN_STEP, signal.SIGSTOP),
    )
    ranks_of_stopped_first[1].join(150)
    assert ranks_of_stopped_first[1].exitcode == 1, output_of(stopped_first)
    assert ranks_of_stopped_first[0].is_alive()
    ranks_of_stopped_first[0].kill()
    exit_statuses(ranks_of_stopped_first)
    host = socket.gethostname()
    said = f"rank 0 (host {host}) does not answer rank 1 (host {host})"
    assert said in output_of(stopped_first)
    assert said in (stopped_first.output / "stacks" / f"hang-{host}.txt").read_text()

    ranks_of_stopped[0].join(150)
    assert ranks_of_stopped[0].exitcode == 1, output_of(stopped)
    assert ranks_of_stopped[1].is_alive()  # a launcher would kill it
    ranks_of_stopped[1].kill()
    exit_statuses(ranks_of_stopped)
    assert "rank 1 (" in output_of(stopped)
    assert "is unresponsive" in output_of(stopped)

    assert exit_statuses(ranks_of_hanging) == [1, 1], output_of(hanging)
    text = (hanging.output / "stacks" / "hang.txt").read_text()
    assert "rank 1 (" in text
    assert "rank 0 (" not in text
    assert "in step 3, reading rows" in text
    assert "fall_asleep" in text
    assert text in output_of(hanging)


def test_a_full_disk_is_said_and_nothing_is_lost(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run")
    ranks = start_ranks(options, before=fault_injection.limit_file_size, arguments=(100_000,))
    assert exit_statuses(ranks) == [2, 2], output_of(options)
    said = output_of(options)
    assert said.count("cannot write checkpoint") == 1
    assert "free space" in said
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert step_losses(options.output) == step_losses(undisturbed)


def test_a_log_that_cannot_be_written_is_said_and_nothing_is_lost(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", "checkpoint.every_tokens=1M")
    options.output.mkdir()
    log = options.output / "log.jsonl"
    log.symlink_to("/dev/full")
    assert run_to_the_end(options) == [2, 2], output_of(options)
    assert output_of(options).count(f"{log} cannot be written: No space left on device") == 1
    assert "Traceback" not in output_of(options)
    reported = read_failures(failures_of(options))
    assert [(one.rank, one.kind) for one in reported] == [
        (0, FailureKind.NO_SPACE),
        (1, FailureKind.NO_SPACE),
    ]
    log.unlink()
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert step_losses(options.output) == step_losses(undisturbed)


def test_a_disk_that_fills_up_while_figures_are_written(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", "checkpoint.every_tokens=1M")
    ranks = start_ranks(
        options,
        before=fault_injection.limit_log_size_at,
        arguments=(13, Activity.TRAIN_STEP, 1_000),
    )
    assert exit_statuses(ranks) == [2, 2], output_of(options)
    said = output_of(options)
    assert said.count("cannot be written: File too large") == 1
    assert "Traceback" not in said
    # The line after step 13 is the first that fails; the ranks learn of it with step 14's scalars.
    assert [path.name for path in sorted((options.output / "checkpoints").iterdir())] == [
        "step-00000010",
        "step-00000015",
    ]
    assert run_to_the_end(options) == [0, 0], output_of(options)
    expected = step_losses(undisturbed)
    del expected[15]  # step 14's line was not written, but the state after it was saved
    assert step_losses(options.output) == expected


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", stop_after_phase="pretrain")
    assert run_to_the_end(options) == [0, 0]
    newest = sorted((options.output / "checkpoints").glob("step-*"))[-1]
    damaged = newest / "rank-00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    options = options_for(inputs, options.output)
    assert run_to_the_end(options) == [0, 0]
    assert str(damaged) in output_of(options)
    assert "continuing from" in output_of(options)
    assert step_losses(options.output) == step_losses(undisturbed)


def opened(options: RunOptions) -> tuple[Corpus, Recipe, TrainingPlan]:
    recipe = load_recipe(options.recipe)
    return open_corpus(options.data), recipe, training_plan(recipe)


def test_a_step_that_is_not_finite_is_skipped_by_all_and_logged(
    inputs: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", stop_after_phase="pretrain")
    ranks = start_ranks(options, before=fault_injection.poison_row, arguments=(13,))
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    (event,) = events(options.output, "not finite")
    assert event["step"] == 3
    assert [entry["row"] for entry in event["rows"]] == [12, 13, 14, 15]
    assert [entry["row"] for entry in event["rows"] if not entry["finite"]] == [13]
    assert all(set(entry["languages"]) <= {"eng_Latn", "deu_Latn"} for entry in event["rows"])
    uses = documents_of_step(*opened(options), step=3)
    for entry in event["rows"]:
        named = {(name, n) for name, numbers in entry["documents"].items() for n in numbers}
        assert named == {(use.component, use.document) for use in uses if use.row == entry["row"]}
    first = next(f"{use.component} {use.document}" for use in uses if use.row == 13)
    assert f"not finite: row 13 with documents {first}" in output_of(options)
    # Another rank computed the row, too: nobody is suspected.
    assert not events(options.output, "wrong result")
    assert not (options.output / NODE_REPORTS_NAME).exists()
    assert sorted(step_losses(options.output)) == [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_too_many_steps_that_are_not_finite_end_the_run(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path / "run", "guard.non_finite_limit=0")
    ranks = start_ranks(options, before=fault_injection.poison_row, arguments=(13,))
    assert exit_statuses(ranks) == [2, 2], output_of(options)
    assert output_of(options).count("guard.non_finite_limit is 0") == 1


def test_after_a_spike_the_run_goes_back_and_passes_over_its_rows(
    inputs: Path, tmp_path: Path
) -> None:
    options = options_for(
        inputs,
        tmp_path / "run",
        "phases.pretrain.tokens=20k",
        "guard.rollback=true",
        "logging.every_steps=5",
        f"evaluation.every_tokens={13 * 1024}",
        stop_after_phase="pretrain",
    )
    ranks = start_ranks(options, before=fault_injection.fake_spike, arguments=(13 * 4,))
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    assert [event["step"] for event in events(options.output, "spike")] == [13]
    # There are checkpoints of step 12 and before; the step before the spike is suspect, too. The
    # first rollback is for running the two steps again.
    again, rollback = events(options.output, "rollback")
    assert (again["step"], rollback["step"]) == (12, 12)
    assert ["costs 2 steps" in e["text"] for e in events(options.output, "repetition")] == [
        True,
        False,
    ]
    assert "repeats: data or numerics" in events(options.output, "repetition")[1]["text"]
    assert not events(options.output, "wrong result")
    assert [event["step"] for event in events(options.output, "passed over")] == [12, 13]
    skipped = json.loads((options.output / "skipped_steps.json").read_text())
    assert skipped == {"steps": [12, 13], "rollbacks": 1}
    assert max(step_losses(options.output)) == 20
    # The held-out loss of the discarded weights must not become that of step 13.
    evaluated = [event["step"] for event in events(options.output, "held-out")]
    assert evaluated == [0, 13, 13, 13, 20]
    # Steps 12 and 13 are undone: the line that spans them is of step 14 only, and the loss monitor
    # has the eighteen other losses.
    lines = {entry["step"]: entry for entry in log_of(options.output) if "step_loss" in entry}
    assert lines[15]["loss"] == pytest.approx(lines[15]["step_loss"], rel=1e-6)
    assert lines[10]["loss"] != pytest.approx(lines[10]["step_loss"], rel=1e-6)
    busy = sum(lines[15]["time"].get(name, 0) for name in ("forward", "backward", "optimizer"))
    assert busy <= lines[15]["interval_seconds"]
    state = state_at(options.output, 20)
    history = state.extra["guard"]["history"]
    assert len(history) == 18
    assert [history[place] for place in (4, 9, 12, 17)] == [
        lines[step]["step_loss"] for step in (5, 10, 15, 20)
    ]
    # A later start of the same run skips them, too.
    kept = sorted((options.output / "checkpoints").glob("step-*"))
    assert [path.name for path in kept][-1] == "step-00000020"


def test_back_at_the_start_of_a_phase_the_phase_begins_anew(inputs: Path, tmp_path: Path) -> None:
    """And the checkpoint of step 23, which the rollback deleted, is written again."""
    options = options_for(
        inputs,
        tmp_path / "run",
        "guard.rollback=true",
        f"checkpoint.every_tokens={23 * 1024}",
        "phases.extension.tokens=20k",
        stop_after_phase="extension",
    )
    ranks = start_ranks(options, before=fault_injection.fake_spike, arguments=(23 * 4,))
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    assert [event["step"] for event in events(options.output, "rollback")] == [10, 10]
    begun = [event["step"] for event in events(options.output, "phase")]
    assert begun == [0, 10, 10, 10]
    saved = [event["step"] for event in events(options.output, "checkpoint")]
    assert saved == [10, 23, 23, 23, 30]
    # Losses of this phase only, whose steps 22 and 23 are skipped.
    assert len(state_at(options.output, 30).extra["guard"]["history"]) == 18


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_at_fifty_random_moments(tmp_path: Path) -> None:
    """All faults of the script, which prints the table."""
    command = [sys.executable, "-m", "tests.benchmarks.faults", "--kills", "50"]
    done = subprocess.run(command, cwd=ROOT, env=with_packages(ROOT), timeout=3500)
    assert done.returncode == 0
