"""Loggers: TensorBoard's files, log.jsonl, and full disks."""

import errno
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmbert.files import atomic_write
from mmbert.recipe.sections import LoggingSettings
from mmbert.training.metrics.loggers.base_logger import BaseLogger, RunInfo
from mmbert.training.metrics.loggers.container import LOGGERS, LoggerContainer
from mmbert.training.metrics.loggers.jsonl_logger import JsonlLogger
from mmbert.training.metrics.loggers.tensorboard_tags import (
    charts,
    custom_scalars_layout,
    validation_tags,
)
from mmbert.training.metrics.results import Losses
from tests.support.file_limits import files_no_longer_than


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def opened(folder: Path, first_step: int = 0) -> LoggerContainer:
    loggers = LoggerContainer(active=True)
    run = RunInfo(folder, "tiny", first_step, 9, phases=("one",), largest_languages=("eng_Latn",))
    loggers.open(run, ["tensorboard"])
    return loggers


def test_a_recipe_may_name_every_logger_and_no_other() -> None:
    (literal, _) = get_args(LoggingSettings.model_fields["loggers"].annotation)
    assert set(get_args(literal)) == set(LOGGERS)


def test_a_logger_needs_no_method_but_those_it_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[int, dict[str, float]]] = []

    class Minimal(BaseLogger):
        target = "nowhere"

        def __init__(self, run: RunInfo) -> None:
            assert (run.name, run.steps) == ("tiny", 9)

        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            logged.append((step, dict(metrics)))

    monkeypatch.setitem(LOGGERS, "minimal", Minimal)
    loggers = LoggerContainer(active=True)
    loggers.open(RunInfo(tmp_path, "tiny", 0, 9), ["minimal"])
    loggers.event("start", 0, "starting")
    loggers.log(1, {"loss": 2.0, "mfu": None})
    loggers.text("about", "text")
    loggers.histogram(1, "epochs", np.ones(3))
    loggers.rewind(0)
    loggers.progress(1)
    loggers.sync()
    loggers.close()
    assert loggers.failure is None
    assert logged == [(1, {"loss": 2.0})]
    assert not (tmp_path / "tensorboard").exists()


def test_the_board_is_read_by_tensorboard(tmp_path: Path) -> None:
    loggers = opened(tmp_path)
    loggers.text("about/recipe", "a recipe")
    for step in range(3):
        loggers.log(step, {"1_loss/train": 3.0 - step, "8_memory/peak_mib": None})
    loggers.histogram(2, "languages/loss", np.array([1.0, 2.0, 2.0]))
    loggers.histogram(2, "languages/epochs", np.array([]))
    loggers.close()
    found = read(tmp_path / "tensorboard")
    assert [(e.step, e.value) for e in found.Scalars("1_loss/train")] == [(0, 3), (1, 2), (2, 1)]
    assert found.Tags()["scalars"] == ["1_loss/train"]
    (histogram,) = found.Histograms("languages/loss")
    assert histogram.histogram_value.num == 3
    assert set(found.Tags()["tensors"]) == {"about/recipe/text_summary", "custom_scalars__config__"}


def test_curves_of_one_chart_have_colors_of_their_own(tmp_path: Path) -> None:
    """TensorBoard colors by run, and a subfolder is a run."""
    loggers = opened(tmp_path)
    for step in range(4):
        loggers.log(step, {"1_loss/train": 3.0, "4_optimizer/gradient_norm": 1.0})
        loggers.log(step, {"1_loss/held_out": 4.0})
        if step == 2:
            loggers.rewind(1)
    loggers.close()
    folder = tmp_path / "tensorboard"
    assert set(read(folder).Tags()["scalars"]) == {
        "1_loss/train", "1_loss/held_out", "4_optimizer/gradient_norm",
    }  # fmt: skip
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["color_1", "color_2"]
    assert read(folder / "color_1").Tags()["scalars"] == ["chart/1_loss/train"]
    held_out = read(folder / "color_2").Scalars("chart/1_loss/held_out")
    assert [(event.step, event.value) for event in held_out] == [(0, 4.0), (3, 4.0)]
    layout = custom_scalars_layout(charts(["one"], ["eng_Latn"]))
    assert layout["Loss"]["training and held out"][1] == [
        "chart/1_loss/train", "chart/1_loss/held_out",
    ]  # fmt: skip
    assert layout["Optimizer and speed"]["gradient norm"][1] == ["4_optimizer/gradient_norm"]


def test_held_out_losses_of_both_objectives_have_tags_of_their_own() -> None:
    masked = Losses(overall=3.0, tiers={"one": 3.5}, languages={"eng_Latn": 3.25})
    causal = Losses(overall=4.0, tiers={"one": 4.5}, languages={"eng_Latn": 4.25})
    own = {
        "1_loss/held_out": 3.0,
        "2_loss_by_tier/held_out_one": 3.5,
        "language_loss_held_out/eng_Latn": 3.25,
    }
    assert validation_tags({"masked": masked}) == own
    assert validation_tags({"masked": masked, "causal": causal}) == own | {
        "1_loss/held_out_causal": 4.0,
        "2_loss_by_tier/causal_held_out_one": 4.5,
        "language_loss_held_out_causal/eng_Latn": 4.25,
    }


def test_rates_of_groups_are_curves_of_the_learning_rate() -> None:
    tags = [f"3_schedule/learning_rate{group}" for group in ("", "_matrices", "_rest")]
    (alone,) = (chart for chart in charts(["one"], []) if chart.title == "learning rate")
    (grouped,) = (
        chart for chart in charts(["one"], [], ["matrices"]) if chart.title == "learning rate"
    )
    assert (alone.several, grouped.several) == (False, True)
    assert all(map(grouped.matches, tags))


def test_details_of_an_event_are_in_the_log_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loggers = opened(tmp_path)
    size = sum(file.stat().st_size for file in (tmp_path / "tensorboard").iterdir())
    loggers.event("start", 0, "starting", recipe={"name": "tiny"}, hosts=2)
    assert capsys.readouterr().out == "starting\n"
    assert sum(file.stat().st_size for file in (tmp_path / "tensorboard").iterdir()) == size
    loggers.close()
    (entry,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert list(entry) == ["unix_time", "time", "event", "step", "text", "recipe", "hosts"]


def test_what_a_restart_or_a_rollback_repeats_is_shown_once(tmp_path: Path) -> None:
    loggers = opened(tmp_path)
    for step in range(6):
        loggers.log(step, {"loss": 0.0})
    loggers.rewind(4)
    loggers.log(4, {"loss": 1.0})
    loggers.close()
    scalars = read(tmp_path / "tensorboard").Scalars("loss")
    assert [(e.step, e.value) for e in scalars][-2:] == [(3, 0.0), (4, 1.0)]


def test_a_log_line_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2, "lo')
    loggers = opened(tmp_path, first_step=1)
    loggers.event("start", 1, "again")
    loggers.close()
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 1]


def test_every_line_of_the_log_has_the_time_of_day(tmp_path: Path) -> None:
    """Also that of an interval, whose `time` is the time by region."""
    before = time.time()
    logger = JsonlLogger(RunInfo(tmp_path, "tiny", 0, 9))
    logger.event("start", 1, "text", {})
    logger.record({"step": 2, "time": {"forward": 0.5}})
    logger.close()
    event, record = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert before - 1 < event["unix_time"] == event["time"] <= record["unix_time"]
    assert record["unix_time"] < time.time() + 1  # rounded
    assert record["time"] == {"forward": 0.5}


@pytest.mark.parametrize("which", ["log.jsonl", "tensorboard"])
def test_a_full_disk_is_kept_for_the_ranks_to_agree_on(tmp_path: Path, which: str) -> None:
    loggers = opened(tmp_path)
    with files_no_longer_than(20_000):
        for step in range(300):
            if which == "tensorboard":
                loggers.log(step, {f"tag/{number}": math.pi for number in range(50)})
            else:
                loggers.event("something", step, "x" * 100)
    loggers.close()
    assert loggers.failure is not None
    assert f"{tmp_path / which} cannot be written" in loggers.failure.message
    assert "free space" in loggers.failure.remedy


def test_a_full_disk_that_was_explained_already_is_kept_for_all_ranks_to_hear(
    tmp_path: Path,
) -> None:
    loggers, full = LoggerContainer(active=True), tmp_path / "results.json"

    def write() -> None:
        with atomic_write(full) as file:
            file.write(b"figures")
            raise OSError(errno.ENOSPC, "No space left on device")

    loggers.attempt(full, write)
    assert loggers.failure is not None
    assert str(full) in str(loggers.failure)
    assert not list(tmp_path.iterdir())
