"""A run resumes only with its original order of data: settings and sizes that determine it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbert.data.loading.data_state import DataCursor
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import Recipe, override_recipe
from mmbert.schedule import training_plan
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe

LENGTHS = {
    "web": {"aaa_Latn": [30, 300] * 40, "bbb_Latn": [50] * 90},
    "wiki": {"aaa_Latn": [70] * 50},
}
RECIPE = small_recipe(
    phase("a", 6144, languages=["aaa"]),
    phase("b", 6144, context=128),
    sources=[
        {"name": "web", "tokens": {"a": 300, "b": 100}, "max_epochs": 40},
        {"name": "wiki", "tokens": {"a": 100, "b": 300}, "sampling": "budget"},
    ],
    row_tokens=256,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two sources, one language in both."""
    return write_corpus(tmp_path_factory.mktemp("shards"), LENGTHS, contexts=[64, 96, 128])


def _digests(corpus: Corpus, recipe: Recipe) -> list[str]:
    """Return the digests of both phases, each without earlier phases (which have their own)."""
    cursor = DataCursor(corpus, recipe, training_plan(recipe), None)
    cursor._open_sampler(1, cursor.sampler.consumption)
    return cursor._digests


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"seed": 5}, [True, True]),
        ({"batch.row_tokens": 512}, [True, True]),
        ({"batch.quantum": 3}, [True, True]),
        ({"phases.a.name": "c", "data.sources.web.tokens": {"c": 300, "b": 100},
          "data.sources.wiki.tokens": {"c": 100, "b": 300}}, [True, False]),
        ({"phases.a.tokens": 30_000}, [True, False]),
        ({"phases.a.context": 96}, [True, False]),
        ({"phases.b.context": 96}, [True, True]),  # the longest context cuts the pieces of all
        ({"phases.a.temperature": 0.6}, [True, False]),
        ({"phases.b.temperature": {"start": 0.7, "end": 0.6}}, [False, True]),
        ({"phases.a.languages": ["aaa", "bbb"]}, [True, False]),
        ({"data.sources.web.tokens": {"a": 301, "b": 100}}, [True, False]),
        ({"data.sources.web.max_epochs": 41}, [True, True]),
        ({"data.sources.wiki.sampling": "temperature"}, [True, True]),
        # settings of masks, rates and steps do not affect the order
        ({"phases.a.mask_ratio": 0.2, "phases.a.dropout": 0.0, "phases.b.weight_decay": 0.1,
          "optimizer.learning_rate": 1.0, "name": "other", "model.num_hidden_layers": 4},
         [False, False]),
    ],
)  # fmt: skip
def test_every_setting_that_decides_of_the_order_is_seen(
    corpus: Corpus, change: dict[str, Any], changed: list[bool]
) -> None:
    before, after = _digests(corpus, RECIPE), _digests(corpus, override_recipe(RECIPE, change))
    assert [a != b for a, b in zip(before, after, strict=True)] == changed


def test_contexts_without_an_index_are_told_apart(corpus: Corpus) -> None:
    """There is no index for 100 and 101, so that the number of segments is an estimate."""
    first, second = (
        _digests(corpus, override_recipe(RECIPE, {"phases.a.context": context}))
        for context in (100, 101)
    )
    assert [a != b for a, b in zip(first, second, strict=True)] == [True, False]


def _longer(lengths: list[int]) -> list[int]:
    return [*lengths[:-1], lengths[-1] + 1]


@pytest.mark.parametrize(
    ("language", "change", "changed"),
    [
        ("aaa_Latn", _longer, [True, True]),
        ("aaa_Latn", lambda lengths: [*lengths, 1], [True, True]),
        ("bbb_Latn", _longer, [False, True]),  # rests in the first phase
        ("bbb_Latn", list, [False, False]),
    ],
)
def test_every_change_of_the_shards_is_seen(
    corpus: Corpus,
    tmp_path: Path,
    language: str,
    change: Callable[[list[int]], list[int]],
    changed: list[bool],
) -> None:
    lengths = {"web": LENGTHS["web"] | {language: change(LENGTHS["web"][language])}}
    other = write_corpus(tmp_path, LENGTHS | lengths, contexts=[64, 96, 128])
    before, after = _digests(corpus, RECIPE), _digests(other, RECIPE)
    assert [a != b for a, b in zip(before, after, strict=True)] == changed
