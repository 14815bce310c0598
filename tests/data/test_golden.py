"""Stored order of data: a change of it would break every run in progress."""

from __future__ import annotations

from pathlib import Path

import xxhash

from mmbert.data.loading.loader import RowLoader
from mmbert.schedule import training_plan
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe

# For an intended change of the order, increase mmbert.data.loading.data_state.STATE_FORMAT.
GOLDEN = "1d6d19ebee80054ca348ef049eb8b27d"


def test_rows_are_those_of_earlier_versions(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path,
        {
            "web": {"aaa_Latn": [5, 90, 33, 700, 12] * 20, "bbb_Cyrl": [40, 8] * 15},
            "code": {"python_Zyyy": [120, 15] * 10},
        },
        contexts=[64, 128],
    )
    sources = [
        {"name": "web", "tokens": {"a": 8, "b": 9}, "max_epochs": 3},
        {"name": "code", "sampling": "budget", "tokens": {"a": 2, "b": 1}},
    ]
    recipe = small_recipe(
        phase("a", 5000, temperature={"start": 0.7, "end": 0.5}),
        phase("b", 5000, context=128, temperature=0.3, mask_ratio=0.1),
        sources=sources,
        row_tokens=256,
        rows=4,
        quantum=4,
    )
    digest = xxhash.xxh3_128()
    for row in RowLoader(corpus, recipe, training_plan(recipe)):
        positions = row.masked_positions * (row.weights > 0)  # unused slots point anywhere
        for array in (row.input_ids, row.cu_seqlens[:20], positions, row.labels):
            digest.update(array.astype("<i4").tobytes())
    assert digest.hexdigest() == GOLDEN
