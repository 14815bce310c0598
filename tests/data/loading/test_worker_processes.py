"""Worker processes read the same rows, report their failures and end with their reader."""

from __future__ import annotations

import os
import signal

import pytest

from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan
from tests.support.row_reading import assert_same


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_reads_the_same_rows(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row], workers: int
) -> None:
    loader = RowLoader(corpus, recipe, plan, workers=workers)
    count = 0
    for expected, row in zip(rows, loader, strict=True):
        assert_same(expected, row)
        count += 1
    assert count == len(rows)


def test_a_dead_worker_is_reported(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    loader = RowLoader(corpus, recipe, plan, workers=1)
    iterator = iter(loader)
    next(iterator)
    assert loader._workers is not None
    worker = loader._workers._processes[0]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker died before row .* \(exit -9\)"):
        list(iterator)
    loader.close()


def test_workers_end_with_their_reader(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    loader = RowLoader(corpus, recipe, plan, workers=2)
    next(iter(loader))
    assert loader._workers is not None
    processes = list(loader._workers._processes)
    os.kill(processes[0].pid, signal.SIGTERM)  # a signal to the group does not end them
    loader.close()
    assert [process.returncode for process in processes] == [0, 0]
