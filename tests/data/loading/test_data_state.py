"""Data states of checkpoints: size, validation, and a corpus that gained a language."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.loading.loader import DataState, RowLoader
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan, training_plan
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe
from tests.support.row_reading import QUANTUM, assert_same, read_in_lockstep


def test_state_before_the_first_step(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    loader = RowLoader(corpus, recipe, plan)
    state = json.loads(json.dumps(loader.state_after(-1)))
    assert_same(rows[0], next(iter(RowLoader(corpus, recipe, plan, state=state))))


def test_state_is_small_and_asked_for_by_step(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan
) -> None:
    loader = RowLoader(corpus, recipe, plan)
    iterator = iter(loader)
    for _ in range(QUANTUM):
        next(iterator)
    size = len(json.dumps(loader.state_after(0)))
    assert size < 4000 * QUANTUM  # a position and under a hundred waiting segments a stream
    with pytest.raises(ValueError, match="step 1 is not among"):
        loader.state_after(1)


def _change(recipe: Recipe, index: int, **changes: object) -> Recipe:
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    values["phases"][index].update(changes)
    return Recipe.model_validate(values)


def test_a_changed_mixture_is_refused_where_it_has_begun(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan
) -> None:
    _, state = read_in_lockstep(corpus, recipe, plan, 1, stop=2)
    changed = _change(recipe, 0, temperature=0.6)
    with pytest.raises(UserError, match="phase 'a' was started with another order"):
        RowLoader(corpus, changed, plan, state=state, first_step=2)
    for other in ({**recipe.model_dump(mode="json", by_alias=True, exclude_none=True), "seed": 5},):
        with pytest.raises(UserError, match="phase 'a' was started with another order"):
            RowLoader(corpus, Recipe.model_validate(other), plan, state=state, first_step=2)
    later = _change(recipe, 1, temperature=0.6)
    assert len(list(RowLoader(corpus, later, plan, state=state, first_step=2))) == 3 * QUANTUM


@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_corpus_may_gain_a_language(tmp_path: Path, stop: int) -> None:
    """A new language shifts the indices of others; a run in progress resumes unchanged.

    Stops within the first phase, at its end, and in later phases, where pieces have been returned
    to their languages and remainders of an unsampled language are deferred.
    """
    lengths = {"bbb_Latn": [30, 200] * 100, "ddd_Latn": [50] * 260}
    named = small_recipe(
        phase("a", 256 * 6 * 3, context=16, languages=["bbb", "ddd"]),
        phase("b", 256 * 6 * 3, languages=["ddd"]),
        phase("c", 256 * 6 * 3, context=128, languages=["ddd", "bbb"], temperature=0.2),
        row_tokens=256,
        rows=6,
        quantum=6,
    )
    plan = training_plan(named)
    old = write_corpus(tmp_path / "old", {"web": lengths}, contexts=[64, 128])
    expected, end = read_in_lockstep(old, named, plan, 1)
    _, state = read_in_lockstep(old, named, plan, 1, stop=stop)
    state = json.loads(json.dumps(state))
    # returned pieces and deferred ranges exist, whose indices must be remapped
    assert [bool(ended["returned"]) for ended in state["ended"]] == [True] * ((stop - 1) // 3)
    assert any(stream["kept"] for stream in state["streams"].values()) == (stop == 5)
    # the same texts, and a language that sorts before them
    numbered = {"bbb_Latn": lengths["bbb_Latn"], "ddd_Latn": lengths["ddd_Latn"], "aaa_Latn": [9]}
    new = write_corpus(tmp_path / "new", {"web": numbered}, contexts=[64, 128])
    rows, new_end = read_in_lockstep(new, named, plan, 1, first_step=stop, state=state)
    for before, row in zip(expected[stop * 6 :], rows, strict=True):
        np.testing.assert_array_equal(before.input_ids, row.input_ids)
        moved = before.documents + np.array([1, 0, 0, 0])
        np.testing.assert_array_equal(moved, row.documents)
    assert _by_name(new_end) == _by_name(end)


def _by_name(state: DataState) -> object:
    """Return the state with component names instead of indices."""
    names = state["components"]
    ended = [
        (
            phase["positions"],
            [(names[component], number) for component, number in phase["returned"]],
        )
        for phase in state["ended"]
    ]
    streams = {
        key: (
            stream["position"],
            [(names[entry[0]], *entry[1:]) for entry in stream["carried"]],
            [(names[entry[0]], *entry[1:]) for entry in stream["kept"]],
        )
        for key, stream in state["streams"].items()
    }
    return ended, streams
