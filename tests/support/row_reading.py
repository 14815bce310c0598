"""Read rows from several ranks in lockstep, and compare rows bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmbert.data.loading.loader import DataState, RowLoader, merge_states
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan

QUANTUM = 24  # divisible by 1, 2, 3 and 8


def read_in_lockstep(
    corpus: Corpus,
    recipe: Recipe,
    plan: TrainingPlan,
    ranks: int,
    *,
    first_step: int = 0,
    state: DataState | None = None,
    workers: int = 0,
    stop: int | None = None,
) -> tuple[list[Row], DataState]:
    """Read steps first_step to stop - 1 from `ranks` loaders, step by step as in training."""
    loaders: list[RowLoader] = []

    def exchange(own: DataState) -> list[DataState]:
        return [loader.state_after(own["step"] - 1) for loader in loaders]

    for rank in range(ranks):
        loaders.append(
            RowLoader(
                corpus,
                recipe,
                plan,
                data_rank=rank,
                data_ranks=ranks,
                state=state,
                first_step=first_step,
                workers=workers,
                exchange=exchange,
            )
        )
    iterators: list[Iterator[Row]] = [iter(loader) for loader in loaders]
    read = []
    stop = plan.steps if stop is None else stop
    for step in range(first_step, stop):
        at = plan.at(step)
        taken = [[next(iterator) for _ in range(at.rows // ranks)] for iterator in iterators]
        for place in range(at.rows // ranks):
            read += [taken[rank][place] for rank in range(ranks)]
    merged = merge_states([loader.state_after(stop - 1) for loader in loaders])
    for loader in loaders:
        loader.close()
    return read, merged


def assert_same(first: Row, second: Row) -> None:
    """Assert that all fields are bitwise equal."""
    for name in Row.__dataclass_fields__:
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            assert a == b, name
