"""What is written for the watcher: the board's file, and a disk that has no more room."""

import errno
import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmbert.files import atomic_write
from mmbert.training.metrics.loggers import Reporter
from mmbert.training.metrics.tensorboard_tags import charts
from mmbert.training.metrics.tensorboard_writer import Board


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def test_the_board_is_read_by_tensorboard(tmp_path: Path) -> None:
    board = Board(tmp_path, 0)
    board.charts(charts(["one"], ["eng_Latn"]))
    board.text("about/recipe", "a recipe")
    for step in range(3):
        board.scalars(step, {"1_loss/train": 3.0 - step, "8_memory/peak_mib": None})
    board.histogram(2, "languages/loss", np.array([1.0, 2.0, 2.0]))
    board.histogram(2, "languages/epochs", np.array([]))
    board.close()
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("1_loss/train")] == [(0, 3), (1, 2), (2, 1)]
    assert found.Tags()["scalars"] == ["1_loss/train"]
    (histogram,) = found.Histograms("languages/loss")
    assert histogram.histogram_value.num == 3
    assert set(found.Tags()["tensors"]) == {"about/recipe/text_summary", "custom_scalars__config__"}


def test_what_a_restart_or_a_rollback_repeats_is_shown_once(tmp_path: Path) -> None:
    board = Board(tmp_path, 0)
    for step in range(6):
        board.scalars(step, {"loss": 0.0})
    board.rewind(4)
    board.scalars(4, {"loss": 1.0})
    board.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")][-2:] == [(3, 0.0), (4, 1.0)]


def test_a_log_line_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2, "lo')
    reporter = Reporter(tmp_path, active=True)
    reporter.open(1, 9, {})
    reporter.event("start", 1, "again")
    reporter.close()
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 1]


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("which", ["log.jsonl", "tensorboard"])
def test_a_full_disk_is_kept_for_the_ranks_to_agree_on(tmp_path: Path, which: str) -> None:
    reporter = Reporter(tmp_path, active=True)
    reporter.open(0, 9, {})
    with files_no_longer_than(20_000):
        for step in range(300):
            if which == "tensorboard":
                reporter.scalars(step, {f"tag/{number}": math.pi for number in range(50)})
            else:
                reporter.event("something", step, "x" * 100)
    reporter.close()
    assert reporter.failure is not None
    assert f"{tmp_path / which} cannot be written" in reporter.failure.message
    assert "free space" in reporter.failure.remedy


def test_a_full_disk_that_was_explained_already_is_kept_for_all_ranks_to_hear(
    tmp_path: Path,
) -> None:
    reporter, full = Reporter(tmp_path, active=True), tmp_path / "results.json"

    def write() -> None:
        with atomic_write(full) as file:
            file.write(b"figures")
            raise OSError(errno.ENOSPC, "No space left on device")

    reporter.attempt(full, write)
    assert reporter.failure is not None
    assert str(full) in str(reporter.failure)
    assert not list(tmp_path.iterdir())
