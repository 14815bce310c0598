"""Cost of starting, seeking and resuming is independent of the number of documents."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.loading.data_state import DataCursor
from mmbert.data.loading.streams import Stream
from mmbert.data.sampling.phase_sampler import PieceLocator
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.schedule import training_plan
from tests.support.generated_corpora import simulated_manifests
from tests.support.scale_run import STREAMS, hashed_locate, scale_recipe, state_at_the_end

LANGUAGES, DOCUMENTS, TOKENS = 300, 4_000_000_000, 3 * 10**12


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of 4 billion documents and 3T tokens, without shards."""
    folder = tmp_path_factory.mktemp("shards") / "shards"
    simulated_manifests(
        folder, languages=LANGUAGES, documents=DOCUMENTS, tokens=TOKENS, context=8192
    )
    return folder


@pytest.fixture(autouse=True)
def _no_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PieceLocator, "locate", hashed_locate)


def test_start_is_small_and_opens_nothing(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(self: Corpus, *args: object) -> None:
        raise AssertionError("a shard was opened")

    monkeypatch.setattr(Corpus, "shard", opened)
    recipe = scale_recipe()
    plan = training_plan(recipe)
    tracemalloc.start()
    begin = time.perf_counter()
    corpus = open_corpus(shards)
    assert sum(c.manifest.train.documents for c in corpus.components) > 0.99 * DOCUMENTS
    cursor = DataCursor(corpus, recipe, plan, None)
    stream = Stream(cursor.sampler, 0, cursor.streams[0])
    for _ in range(5):
        stream.next_row()
    seconds = time.perf_counter() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert seconds < 60  # a second on a free machine; this only guards against loops over documents


def test_resuming_deep_in_the_run_is_a_look_up(shards: Path) -> None:
    recipe = scale_recipe()
    plan = training_plan(recipe)
    corpus = open_corpus(shards)
    fresh = DataCursor(corpus, recipe, plan, None)
    state = state_at_the_end(fresh, plan.phases[1].end_step)
    fresh._open_sampler(1, fresh.sampler.consumption)
    state["digests"] = fresh._digests
    state = json.loads(json.dumps(state))
    tracemalloc.start()
    cursor = DataCursor(corpus, recipe, plan, state)
    stream = Stream(cursor.sampler, 3, cursor.streams[3])
    row = stream.next_row()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cursor.sampler.index == 2
    assert len(row)
    # proportional to how far the streams have drifted apart, not to the 2.9T tokens behind
    assert int(cursor.sampler.consumption.gap_counts.sum()) < 10_000_000
    assert peak < 700e6
    # the next draws are new and directly follow the pieces before them
    drawn = cursor.sampler.consumption.drawn()
    expected = sum(mixture.pieces.sum(axis=0) for mixture in fresh._mixtures[:2])
    positions = [*state["ended"][0]["positions"]]
    positions += [state["streams"][str(n)]["position"] for n in range(STREAMS)]
    assert drawn.sum() == sum(positions)
    large = expected > 1e6
    np.testing.assert_allclose(drawn[large] / expected[large], 1, atol=2e-3)


def test_blocks_are_evaluated_only_where_pieces_are_taken(shards: Path) -> None:
    recipe = scale_recipe()
    plan = training_plan(recipe)
    cursor = DataCursor(open_corpus(shards), recipe, plan, None)
    mixture = cursor.sampler.mixture
    evaluated: list[int] = []
    original = type(mixture)._counts

    def counted(block: int) -> np.ndarray:
        evaluated.append(block)
        return original(mixture, block)

    mixture._counts = counted  # type: ignore[method-assign]
    state = {**cursor.streams[5], "position": 20_000_000}
    stream = Stream(cursor.sampler, 5, state)  # type: ignore[arg-type]
    stream.next_row()
    assert mixture.blocks > 100_000
    assert 0 < len(evaluated) < 200
