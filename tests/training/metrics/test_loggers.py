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
from mmbert.training.metrics.loggers import LoggerContainer
from mmbert.training.metrics.tensorboard_logger import TensorBoardLogger
from mmbert.training.metrics.tensorboard_tags import custom_scalars_layout


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def test_the_board_is_read_by_tensorboard(tmp_path: Path) -> None:
    tensorboard = TensorBoardLogger(tmp_path, 0)
    tensorboard.custom_scalars(custom_scalars_layout(["one"], ["eng_Latn"]))
    tensorboard.text("about/recipe", "a recipe")
    for step in range(3):
        tensorboard.scalars(step, {"1_loss/train": 3.0 - step, "8_memory/peak_mib": None})
    tensorboard.histogram(2, "languages/loss", np.array([1.0, 2.0, 2.0]))
    tensorboard.histogram(2, "languages/epochs", np.array([]))
    tensorboard.close()
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("1_loss/train")] == [(0, 3), (1, 2), (2, 1)]
    assert found.Tags()["scalars"] == ["1_loss/train"]
    (histogram,) = found.Histograms("languages/loss")
    assert histogram.histogram_value.num == 3
    assert set(found.Tags()["tensors"]) == {"about/recipe/text_summary", "custom_scalars__config__"}


def test_what_a_restart_or_a_rollback_repeats_is_shown_once(tmp_path: Path) -> None:
    tensorboard = TensorBoardLogger(tmp_path, 0)
    for step in range(6):
        tensorboard.scalars(step, {"loss": 0.0})
    tensorboard.rewind(4)
    tensorboard.scalars(4, {"loss": 1.0})
    tensorboard.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")][-2:] == [(3, 0.0), (4, 1.0)]


def test_a_log_line_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2, "lo')
    loggers = LoggerContainer(tmp_path, active=True)
    loggers.open(1, 9, {})
    loggers.event("start", 1, "again")
    loggers.close()
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
    loggers = LoggerContainer(tmp_path, active=True)
    loggers.open(0, 9, {})
    with files_no_longer_than(20_000):
        for step in range(300):
            if which == "tensorboard":
                loggers.scalars(step, {f"tag/{number}": math.pi for number in range(50)})
            else:
                loggers.event("something", step, "x" * 100)
    loggers.close()
    assert loggers.failure is not None
    assert f"{tmp_path / which} cannot be written" in loggers.failure.message
    assert "free space" in loggers.failure.remedy


def test_a_full_disk_that_was_explained_already_is_kept_for_all_ranks_to_hear(
    tmp_path: Path,
) -> None:
    loggers, full = LoggerContainer(tmp_path, active=True), tmp_path / "results.json"

    def write() -> None:
        with atomic_write(full) as file:
            file.write(b"figures")
            raise OSError(errno.ENOSPC, "No space left on device")

    loggers.attempt(full, write)
    assert loggers.failure is not None
    assert str(full) in str(loggers.failure)
    assert not list(tmp_path.iterdir())
