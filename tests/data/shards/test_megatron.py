"""Compatibility with Megatron-LM's own reader and writer, both ways and byte for byte."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmbert.data.shards.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from mmbert.errors import UserError
from tests.support.corpora import write_corpus

DTYPES = ["uint8", "int8", "int16", "int32", "int64", "uint16"]


@pytest.fixture(scope="module")
def megatron() -> Any:
    """Return megatron-core's module of the format (without wheels on some systems)."""
    return pytest.importorskip(
        "megatron.core.datasets.indexed_dataset",
        reason="megatron-core is not installed (pip install megatron-core)",
        exc_type=ImportError,
    )


def build(
    megatron: Any, prefix: Path, documents: list[list[list[int]]], dtype: str, multimodal: bool
) -> None:
    """Write `documents`, each a list of sequences, with Megatron's own builder."""
    builder = megatron.IndexedDatasetBuilder(
        f"{prefix}.bin", dtype=np.dtype(dtype).type, multimodal=multimodal
    )
    for document in documents:
        for sequence in document:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def sequences(document: Any) -> Any:
    """Draw documents of one or several sequences of any length, including empty ones."""
    return st.lists(st.lists(document, max_size=9), min_size=1, max_size=4)


@pytest.mark.parametrize("multimodal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_we_read_what_megatron_wrote(
    megatron: Any, dtype: str, multimodal: bool, tmp_path: Path
) -> None:
    limits = np.iinfo(dtype)
    ends = st.sampled_from([int(limits.min), int(limits.max)])
    values = st.integers(0, min(127, int(limits.max))) | ends

    @given(st.lists(sequences(values), min_size=1, max_size=8))
    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    def check(documents: list[list[list[int]]]) -> None:
        documents = [*documents, [[1, 2]]]  # Megatron cannot map a pair without a token
        build(megatron, tmp_path / "theirs", documents, dtype, multimodal)
        ours = IndexedDataset(tmp_path / "theirs")
        assert ours.dtype == np.dtype(dtype)
        assert len(ours) == len(documents)
        flat = [sequence for document in documents for sequence in document]
        assert ours.sequence_count == len(flat)
        assert [ours.sequence(n).tolist() for n in range(len(flat))] == flat
        joined = [[token for part in document for token in part] for document in documents]
        assert [ours.document(n).tolist() for n in range(len(documents))] == joined

    check()


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_megatron_reads_what_we_wrote(
    megatron: Any, dtype: str, mapped: bool, tmp_path: Path
) -> None:
    limits = np.iinfo(dtype)
    values = st.integers(int(limits.min), int(limits.max))

    @given(st.lists(st.lists(values, max_size=9), min_size=1, max_size=12))
    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    def check(documents: list[list[int]]) -> None:
        documents = [*documents, [1]]
        with IndexedDatasetWriter(tmp_path / "ours", dtype) as writer:
            for document in documents:
                writer.add(np.array(document, dtype=dtype))
            writer.finish()
        theirs = megatron.IndexedDataset(str(tmp_path / "ours"), mmap=mapped)
        assert theirs.index.dtype == np.dtype(dtype)
        assert len(theirs) == len(documents)
        assert [theirs[n].tolist() for n in range(len(documents))] == documents
        assert theirs.sequence_lengths.tolist() == [len(document) for document in documents]
        bounds = list(pairwise(theirs.document_indices.tolist()))
        assert bounds == [(n, n + 1) for n in range(len(documents))]
        middle = len(documents[0]) // 2
        assert theirs.get(0, offset=middle).tolist() == documents[0][middle:]

    check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_write_the_same_bytes(megatron: Any, dtype: str, tmp_path: Path) -> None:
    documents = [[3, 1, 4], [], [1, 5, 9, 2, 6], [], [5]]
    build(megatron, tmp_path / "theirs", [[document] for document in documents], dtype, False)
    with IndexedDatasetWriter(tmp_path / "ours", dtype) as writer:
        for document in documents:
            writer.add(document)
        writer.finish()
    for suffix in ("bin", "idx"):
        theirs = (tmp_path / f"theirs.{suffix}").read_bytes()
        assert (tmp_path / f"ours.{suffix}").read_bytes() == theirs


def test_megatron_joins_our_shards(megatron: Any, tmp_path: Path) -> None:
    """Merge preprocessed shards as Megatron's tools/merge_datasets.py does."""
    corpus = write_corpus(
        tmp_path,
        {"web": {"aaa_Latn": [20, 0, 130, 9, 75]}},
        contexts=[64],
        documents_per_shard=2,
    )
    (component,) = corpus.components
    shards = [str(component.folder / shard.name) for shard in component.manifest.train.shards]
    assert len(shards) == 3
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "all.bin"), dtype=np.uint16)
    for shard in shards:
        builder.add_index(shard)
    builder.finalize(str(tmp_path / "all.idx"))
    joined = IndexedDataset(tmp_path / "all")
    assert [joined.document(n).tolist() for n in range(5)] == [
        corpus.document(component, "train", n).tolist() for n in range(5)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_are_no_tokens_are_refused(megatron: Any, dtype: str, tmp_path: Path) -> None:
    build(megatron, tmp_path / "theirs", [[[1, 2]]], dtype, False)
    with pytest.raises(UserError, match=r"theirs\.idx.*dtype code"):
        IndexedDataset(tmp_path / "theirs")
