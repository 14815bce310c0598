"""A small corpus of three languages, a recipe of two phases and all rows of its run."""

from __future__ import annotations

import numpy as np
import pytest

from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan, training_plan
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe
from tests.support.row_reading import QUANTUM


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three languages, some documents much longer than the contexts."""
    random = np.random.default_rng(5)
    languages = {
        name: np.maximum(1, random.lognormal(3.4, 1.2, count)).astype(int).tolist()
        for name, count in (("aaa_Latn", 700), ("bbb_Latn", 200), ("ccc_Cyrl", 40))
    }
    return write_corpus(
        tmp_path_factory.mktemp("shards"), {"web": languages}, contexts=[64, 128], heldout=[9, 200]
    )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Two phases that change languages, context, temperature and mask ratio."""
    return small_recipe(
        phase("a", 256 * QUANTUM * 3, languages=["aaa", "bbb"]),
        phase("b", 256 * QUANTUM * 2, context=128, mask_ratio=0.15, temperature=0.2),
        row_tokens=256,
        rows=QUANTUM,
        quantum=QUANTUM,
    )


@pytest.fixture(scope="module")
def plan(recipe: Recipe) -> TrainingPlan:
    """Steps 0 to 2 in phase a, 3 and 4 in phase b."""
    return training_plan(recipe)


@pytest.fixture(scope="module")
def rows(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> list[Row]:
    """The whole run as one rank reads it."""
    return list(RowLoader(corpus, recipe, plan))
