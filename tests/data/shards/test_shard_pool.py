"""Reads at many places of many shards agree with reads of single documents."""

from __future__ import annotations

import numpy as np
import pytest

from mmbert.data.shards.component import SplitName
from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.shard_pool import ShardPool
from tests.support.corpora import write_corpus

LENGTHS = {
    "web": {"aaa_Latn": [20, 3, 130, 1, 40] * 9, "bbb_Latn": [7], "ccc_Cyrl": [64, 2, 9] * 5},
    "code": {"aaa_Latn": [11, 300, 5] * 4},
}


@pytest.fixture(scope="module", params=[500, 70_000], ids=["uint16", "int32"])
def corpus(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Corpus:
    root = tmp_path_factory.mktemp("shards")
    return write_corpus(
        root,
        LENGTHS,
        contexts=[64],
        vocabulary_size=request.param,
        documents_per_shard=4,
        heldout=[5, 17, 1],
    )


def draw(corpus: Corpus, split: SplitName, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return components and document numbers of `count` random documents."""
    rng = np.random.default_rng(5)
    documents = np.array([each.split(split).documents for each in corpus.components])
    components = rng.choice(np.flatnonzero(documents), count)
    return components, rng.integers(0, documents[components])


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("capacity", [1, 3, 100])
def test_documents_and_tokens(corpus: Corpus, split: SplitName, capacity: int) -> None:
    pool = ShardPool(corpus.components, capacity)
    components, numbers = draw(corpus, split, 200)
    shards, lengths, offsets, ends = pool.documents(components, split, numbers)
    width, size = pool.token_bytes(components, split, shards)
    expected = [
        corpus.document(corpus.components[component], split, number)
        for component, number in zip(components.tolist(), numbers.tolist(), strict=True)
    ]
    assert lengths.tolist() == [len(tokens) for tokens in expected]
    np.testing.assert_array_equal(ends, offsets + lengths * width)
    assert (ends <= size).all()
    places = np.cumsum(lengths + 1) - lengths
    target = np.full(int(places[-1] + lengths[-1]), -1, dtype=np.int32)
    pool.copy_tokens(components, split, shards, offsets // width, lengths, target, places)
    joined = [value for tokens in expected for value in (-1, *tokens.tolist())]
    assert target.tolist() == joined


def test_tokens_outside_a_shard_are_not_read(corpus: Corpus) -> None:
    pool = ShardPool(corpus.components, 10)
    one = np.array([0])
    size = corpus.components[0].manifest.train.shards[0].tokens
    target = np.zeros(10, dtype=np.int32)
    for offset, count in ((size, 1), (-1, 1), (size - 1, 2), (0, -1)):
        with pytest.raises(IndexError, match="outside their shard"):
            pool.copy_tokens(one, "train", one, np.array([offset]), np.array([count]), target, one)


def test_the_least_recently_used_shards_are_closed(corpus: Corpus) -> None:
    pool = ShardPool(corpus.components, 2)
    web = corpus.components[1]
    first = pool.get(web, "train", 0)
    pool.get(web, "train", 1)
    assert pool.get(web, "train", 0) is first
    pool.get(web, "train", 2)
    assert pool.get(web, "train", 0) is first
