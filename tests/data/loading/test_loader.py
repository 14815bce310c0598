"""The rows of a run are the same on any number of ranks, and after any restart."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from mmbert.data.loading.loader import DataState, RowLoader, merge_states
from mmbert.data.loading.replay import documents_of_step
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan
from tests.support.row_reading import QUANTUM, assert_same, read_in_lockstep


def test_rows_come_in_order(rows: list[Row], plan: TrainingPlan) -> None:
    assert [row.index for row in rows] == list(range(plan.phases[-1].first_row + 48))


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_any_number_of_ranks_reads_the_same_rows(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row], ranks: int
) -> None:
    read, _ = read_in_lockstep(corpus, recipe, plan, ranks)
    assert len(read) == len(rows)
    for expected, row in zip(rows, read, strict=True):
        assert_same(expected, row)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (2, 1)])
def test_resuming_on_another_number_of_ranks(
    corpus: Corpus,
    recipe: Recipe,
    plan: TrainingPlan,
    rows: list[Row],
    stop: int,
    before: int,
    after: int,
) -> None:
    """Stop after any step (3 ends the phase) and pass the state through JSON."""
    _, state = read_in_lockstep(corpus, recipe, plan, before, stop=stop)
    state = json.loads(json.dumps(state))
    assert state["step"] == stop
    remaining = rows[stop * QUANTUM :]
    if stop < plan.steps:
        read, end = read_in_lockstep(corpus, recipe, plan, after, first_step=stop, state=state)
        for expected, row in zip(remaining, read, strict=True):
            assert_same(expected, row)
        assert json.loads(json.dumps(end)) == json.loads(
            json.dumps(read_in_lockstep(corpus, recipe, plan, 1)[1])
        )
    else:
        assert list(RowLoader(corpus, recipe, plan, state=state, first_step=stop)) == []


def test_replay_names_the_documents_of_any_step(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    _, state = read_in_lockstep(corpus, recipe, plan, 1, stop=2)
    for step, start in ((1, None), (4, None), (4, state), (2, state)):
        uses = documents_of_step(corpus, recipe, plan, step, start)
        named = [(use.row, use.component, use.document, use.start, use.tokens) for use in uses]
        expected = [
            (row.index, corpus.components[component].name, document, first, size)
            for row in rows[step * QUANTUM : (step + 1) * QUANTUM]
            for component, document, first, size in row.documents.tolist()
        ]
        assert named == expected
    with pytest.raises(UserError, match="step 1 is outside"):
        documents_of_step(corpus, recipe, plan, 1, state)


def test_another_seed_is_another_order(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    other = next(iter(RowLoader(corpus, recipe.model_copy(update={"seed": 22}), plan)))
    assert not np.array_equal(other.documents[:5], rows[0].documents[:5])


def test_a_loader_is_iterated_once(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    loader = RowLoader(corpus, recipe, plan)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="once"):
        iter(loader)


def test_wrong_starts_are_refused(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    _, state = read_in_lockstep(corpus, recipe, plan, 1, stop=2)
    with pytest.raises(ValueError, match="before step 2, not 1"):
        RowLoader(corpus, recipe, plan, state=state, first_step=1)
    with pytest.raises(
        UserError, match=r"batch\.quantum \(24\) must be divisible by the data-parallel size \(5"
    ):
        RowLoader(corpus, recipe, plan, data_ranks=5)
    with pytest.raises(ValueError, match="exchange"):
        RowLoader(corpus, recipe, plan, data_ranks=2)
    part: DataState = {**state, "streams": {"0": state["streams"]["0"]}}
    with pytest.raises(UserError, match="has 1 data streams"):
        RowLoader(corpus, recipe, plan, state=part, first_step=2)
    with pytest.raises(ValueError, match="differ in step"):
        merge_states([state, {**state, "step": 3}])


def _count_calls(monkeypatch: pytest.MonkeyPatch, target: str) -> Callable[[], int]:
    calls = []
    module, name = target.rsplit(".", 1)
    original = __import__(module, fromlist=[name]).__dict__[name]

    def counted(*args: object, **options: object) -> object:
        calls.append(args)
        return original(*args, **options)

    monkeypatch.setattr(target, counted)
    return lambda: len(calls)


def test_starting_opens_no_shard(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Corpus(corpus.root, corpus.tokenizer, corpus.components)
    opened = _count_calls(monkeypatch, "mmbert.data.shards.shard_pool.IndexedDataset")
    loader = RowLoader(fresh, recipe, plan)
    assert opened() == 0
    for _ in loader:
        pass
    assert opened() == 3  # each shard once


def test_text_is_asked_for_before_it_is_read(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, int]] = set()

    def ask(self: IndexedDataset, start: int, end: int) -> None:
        asked.update((self.prefix.parent.name, token) for token in range(start, end))

    monkeypatch.setattr("mmbert.data.sampling.phase_sampler.READ_AHEAD_FROM", 0)
    monkeypatch.setattr(IndexedDataset, "read_ahead", ask)
    fresh = Corpus(corpus.root, corpus.tokenizer, corpus.components)
    for row in RowLoader(fresh, recipe, plan):
        for component, document, start, size in row.documents.tolist():
            owner = corpus.components[component]
            offset = corpus.shard(owner, "train", 0).offsets[document] // 2 + start
            assert {(owner.language, t) for t in range(offset, offset + size)} <= asked


def test_few_descriptors_are_enough(
    corpus: Corpus,
    recipe: Recipe,
    plan: TrainingPlan,
    rows: list[Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmbert.data.shards.corpus._open_shard_limit", lambda: 1)
    fresh = Corpus(corpus.root, corpus.tokenizer, corpus.components)
    opened = _count_calls(monkeypatch, "mmbert.data.shards.shard_pool.IndexedDataset")
    indexed = _count_calls(monkeypatch, "mmbert.data.shards.corpus.read_continuation_index")
    for expected, row in zip(rows, RowLoader(fresh, recipe, plan), strict=True):
        np.testing.assert_array_equal(expected.input_ids, row.input_ids)
        assert len(fresh._continuations) <= 1
    assert opened() > 3
    assert indexed() > len(fresh.components)
