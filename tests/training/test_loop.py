"""The training job end to end on two ranks: phases, metrics, restarts, other grids, variants."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import read_parameters
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, start_ranks
from tests.support.ranks import run_ranks
from tests.support.small_run import (
    STEPS,
    events,
    log_of,
    options_for,
    pretrain_rank,
    step_losses,
)
from tests.training import golden

TOKENS_A_STEP = 4 * 256


def lines_of(run: Path) -> list[dict[str, Any]]:
    """Return the records of intervals in the log, without its events."""
    return [entry for entry in log_of(run) if "loss" in entry and "event" not in entry]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(read_parameters(run / "checkpoints" / f"step-{STEPS:08d}"))


def test_every_phase_has_its_own_data_and_figures(undisturbed: Path) -> None:
    results = json.loads((undisturbed / "results.json").read_text())
    phases = results["phases"]
    assert [phase["name"] for phase in phases] == ["pretrain", "extension", "decay"]
    assert [phase["languages"] for phase in phases] == [2, 4, 5]
    assert [phase["tokens"] for phase in phases] == [10240, 6144, 6144]
    for phase in phases:
        for moment in ("held_out_start", "held_out_end"):
            assert phase[moment]["overall"] > 0
            assert set(phase[moment]["tiers"]) == {"pretrain", "extension", "decay"}
            assert len(phase[moment]["languages"]) == 5
    # For the same weights, the loss depends on the rotary base and on nothing else.
    assert phases[0]["held_out_end"]["overall"] != phases[1]["held_out_start"]["overall"]
    assert phases[1]["held_out_end"] == phases[2]["held_out_start"]
    assert set(results["unigram"]["tiers"]) == {"pretrain", "extension", "decay"}


def test_the_log_has_a_line_per_interval_and_one_per_phase(undisturbed: Path) -> None:
    assert [entry["step"] for entry in events(undisturbed, "phase")] == [0, 10, 16]
    lines = lines_of(undisturbed)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    last = lines[-1]
    assert last["tokens"] == STEPS * TOKENS_A_STEP
    assert last["mask_ratio"] == 0.05
    assert 0.3 <= last["temperature"] < 0.5
    assert 0.9 < last["packing_efficiency"] <= 1
    assert last["share_error_max"] < 0.1
    assert set(last["time"]) >= {"data", "forward", "backward", "optimizer"}
    assert set(last["loss_by_language"]) >= {"eng_Latn", "que_Latn"}
    assert sum(last["share_by_language"].values()) == pytest.approx(1)
    assert last["share_by_language"] == pytest.approx(last["wanted_share_by_language"], abs=0.1)
    assert last["epochs_by_language"]["eng_Latn"] > 0
    for line in lines:
        assert line["loss"] == pytest.approx(line["step_loss"], rel=1e-6)
        assert set(line["loss_by_tier"]) <= {"pretrain", "extension", "decay"}


def test_tensorboard_has_the_same_figures(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(undisturbed / "tensorboard"))
    board.Reload()
    tags = set(board.Tags()["scalars"])
    assert tags >= {
        "1_loss/train",
        "1_loss/held_out",
        "2_loss_by_tier/train_pretrain",
        "2_loss_by_tier/held_out_decay",
        "3_schedule/learning_rate",
        "3_schedule/mask_ratio",
        "3_schedule/temperature",
        "4_optimizer/gradient_norm",
        "4_optimizer/update_rms_clipped_share",
        "5_data/packing_efficiency",
        "6_speed/tokens_per_second_per_device",
        "6_speed/hours_left",
        "7_time/data",
        "7_time/communication",
        "8_memory/peak_mib",
        "language_loss/eng_Latn",
        "language_loss_held_out/que_Latn",
        "language_share/que_Latn",
        "language_share_wanted/que_Latn",
        "language_epochs/eng_Latn",
    }
    losses = {event.step: event.value for event in board.Scalars("1_loss/train")}
    assert losses == pytest.approx(step_losses(undisturbed), rel=1e-5)


def test_tokens_are_counted_whatever_lies_between_two_lines(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Log lines every third step, validation every other one, and checkpoints in between: that of
    step 20 is two steps after the last line."""
    run = tmp_path / "run"
    overrides = ("logging.every_steps=3", "evaluation.every_tokens=2k")
    assert run_ranks(pretrain_rank, 2, options_for(inputs, run, *overrides)) == {0: 0, 1: 0}
    assert len(events(run, "held-out")) > len(events(undisturbed, "held-out"))
    assert {20, 18, 21} - {line["step"] for line in lines_of(run)} == {20}
    shares = {line["step"]: line["packing_efficiency"] for line in lines_of(undisturbed)}
    for step in (10, 16, 20, STEPS):
        name = f"step-{step:08d}"
        ours, theirs = (Index.read(r / "checkpoints" / name).state for r in (run, undisturbed))
        assert ours.language_tokens == theirs.language_tokens
        real = TOKENS_A_STEP * sum(share for of, share in shares.items() if of <= step)
        assert sum(ours.language_tokens.values()) == pytest.approx(real, abs=1e-6)
    for line in lines_of(run):
        assert "evaluation" not in line["time"]
        shown = sum(line["time"].get(name, 0) for name in ("forward", "backward", "optimizer"))
        assert shown <= line["interval_seconds"]


def test_tokens_and_phase_results_do_not_depend_on_the_logging_interval(
    inputs: Path, tmp_path: Path
) -> None:
    """One run logs every step, the other never before it is stopped in the second phase."""
    found = []
    for every in (1, 50):
        overrides = (f"logging.every_steps={every}", "checkpoint.every_tokens=1M")
        options = options_for(inputs, tmp_path / str(every), *overrides)
        ranks = start_ranks(
            options,
            world_size=1,
            before=fault_injection.signal_at,
            arguments=(0, 12, Activity.TRAIN_STEP, signal.SIGTERM),
        )
        assert exit_statuses(ranks) == [75], output_of(options)
        state = Index.read(options.output / "checkpoints" / "step-00000013").state
        phases = json.loads((options.output / "results.json").read_text())["phases"]
        assert all(phase["seconds"] > 0 for phase in phases[:2])
        tokens = [phase["tokens"] for phase in phases]
        found.append((state.extra["component_tokens"], state.language_tokens, tokens))
    assert found[0] == found[1]
    assert found[0][2] == [10 * TOKENS_A_STEP, 3 * TOKENS_A_STEP, 0]


def test_a_checkpoint_is_of_the_phase_whose_step_came_last(undisturbed: Path) -> None:
    for step, phase in ((10, "pretrain"), (16, "extension"), (20, "decay"), (STEPS, "decay")):
        state = Index.read(undisturbed / "checkpoints" / f"step-{step:08d}").state
        assert state.phase == phase, step


def test_the_losses_are_the_golden_ones(undisturbed: Path) -> None:
    """Another ZeRO stage, to the tolerance of another processor (see golden.py)."""
    expected = json.loads(golden.FILE.read_text())["losses"]["two data ranks, ZeRO 2"]
    found = [loss for _, loss in sorted(step_losses(undisturbed).items())]
    assert found == pytest.approx(expected, rel=golden.TOLERANCE)


def test_each_phase_end_is_kept(undisturbed: Path) -> None:
    names = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert {"step-00000010", "step-00000016", "step-00000022"} <= set(names)


def test_a_finished_run_is_not_trained_again(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    results = (run / "results.json").read_text()
    assert run_ranks(pretrain_rank, 2, options_for(inputs, run)) == {0: 0, 1: 0}
    added = log_of(run)[len(log_of(undisturbed)) :]
    assert [entry["event"] for entry in added] == ["start", "warning", "warning", "links"]
    assert (run / "results.json").read_text() == results


def test_stopped_after_a_phase_and_started_again_it_is_the_same_run(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for phase in ("pretrain", "extension"):
        options = options_for(inputs, run, stop_after_phase=phase)
        assert run_ranks(pretrain_rank, 2, options) == {0: 0, 1: 0}
    assert run_ranks(pretrain_rank, 2, options_for(inputs, run)) == {0: 0, 1: 0}
    assert step_losses(run) == step_losses(undisturbed)
    expected = final_weights(undisturbed)
    assert all(torch.equal(value, expected[name]) for name, value in final_weights(run).items())
    ours, theirs = (json.loads((r / "results.json").read_text()) for r in (run, undisturbed))
    for mine, yours in zip(ours["phases"], theirs["phases"], strict=True):
        for key in ("tokens", "held_out_start", "held_out_end"):
            assert mine[key] == yours[key]


def gradient_norms(run: Path) -> dict[int, float]:
    return {line["step"]: line["gradient_norm"] for line in lines_of(run)}


def test_another_grid_trains_the_same_model(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """One rank, two tensor ranks, and two by two have the same rows, losses and norms.

    They differ by 4e-8 and 1e-6; another processor may sum in another order.
    """
    expected, norms = step_losses(undisturbed), gradient_norms(undisturbed)
    alone = tmp_path / "alone"
    options = options_for(inputs, alone, "checkpoint.every_minutes=0.0001")
    assert run_ranks(pretrain_rank, 1, replace(options, profile_steps=2)) == {0: 0}
    assert any("(time)" in entry["text"] for entry in events(alone, "checkpoint"))
    assert "traceEvents" in (alone / "profile" / "steps-2.json").read_text()
    assert step_losses(alone) == pytest.approx(expected, rel=1e-4)
    assert gradient_norms(alone) == pytest.approx(norms, rel=1e-4)
    for ranks in (2, 4):
        split = tmp_path / f"split-{ranks}"
        options = options_for(inputs, split, "parallel.tensor=2")
        assert run_ranks(pretrain_rank, ranks, options) == dict.fromkeys(range(ranks), 0)
        assert step_losses(split) == pytest.approx(expected, rel=1e-4)
        assert gradient_norms(split) == pytest.approx(norms, rel=1e-4)


def test_a_variant_branches_from_the_phase_it_names(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    main = tmp_path / "main"
    shutil.copytree(undisturbed, main)
    options = options_for(inputs, main, variant="english")
    assert run_ranks(pretrain_rank, 2, options) == {0: 0, 1: 0}
    run = main / "variants" / "english"
    losses, others = step_losses(run), step_losses(undisturbed)
    assert sorted(losses) == list(range(17, STEPS + 1))  # steps after the branch
    assert losses != {step: others[step] for step in losses}
    assert step_losses(main) == others
    results = json.loads((run / "results.json").read_text())
    assert results["phases"][2]["languages"] == 2
    lonely = options_for(inputs, tmp_path / "nothing", variant="english")
    assert run_ranks(pretrain_rank, 1, lonely) == {0: 2}
