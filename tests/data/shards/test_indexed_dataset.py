"""Megatron pairs: exact bytes, round trips, and reported damage."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.shards.indexed_dataset import (
    IndexedDataset,
    IndexedDatasetWriter,
    dtype_for_vocabulary,
    index_bytes,
)
from mmbert.errors import UserError


def _write(prefix: Path, documents: list[list[int]], dtype: str) -> None:
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add(document)
        writer.finish()


def test_bytes_are_megatrons(tmp_path: Path) -> None:
    # The layout by hand, entry by entry as in Megatron-LM's _IndexWriter.
    documents = [[1, 2, 3], [], [70_000]]
    _write(tmp_path / "a", documents, "int32")
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, 3, 4)
    index += struct.pack("<3i", 3, 0, 1)
    index += struct.pack("<3q", 0, 12, 12)
    index += struct.pack("<4q", 0, 1, 2, 3)
    assert (tmp_path / "a.idx").read_bytes() == index
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<4i", 1, 2, 3, 70_000)


def test_places_beyond_two_gigabytes_are_exact() -> None:
    """Offsets of five documents of 2^30 tokens need more than 32 bits. No text is written."""
    many = 2**30
    index = index_bytes([many, 3, many, many, 7], "int32")
    places = np.frombuffer(index[34 + 5 * 4 : 34 + 5 * 4 + 5 * 8], dtype="<i8")
    assert (places // 4).tolist() == [0, many, many + 3, 2 * many + 3, 3 * many + 3]


@given(
    st.lists(st.lists(st.integers(0, 65_535), max_size=20), max_size=20),
    st.sampled_from(["uint16", "int32"]),
)
@settings(deadline=None)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], dtype: str
) -> None:
    prefix = tmp_path_factory.mktemp("pair") / "train-00000"
    _write(prefix, documents, dtype)
    dataset = IndexedDataset(prefix)
    assert len(dataset) == dataset.sequence_count == len(documents)
    assert [dataset.document(i).tolist() for i in range(len(documents))] == documents
    for number, document in enumerate(documents):
        middle = len(document) // 2
        assert dataset.sequence(number, middle).tolist() == document[middle:]


def test_streaming_equals_one_call(tmp_path: Path) -> None:
    lengths = np.array([3, 0, 5, 1])
    tokens = np.arange(9)
    with IndexedDatasetWriter(tmp_path / "a", "uint16") as writer:
        writer.add_many(tokens, lengths)
        first = writer.finish()
    with IndexedDatasetWriter(tmp_path / "b", "uint16") as writer:
        for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
            writer.add(tokens[start : start + length].astype(np.uint16))
        second = writer.finish()
    assert first.files == second.files
    assert (first.documents, first.tokens) == (4, 9)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_several_sequences_per_document(tmp_path: Path) -> None:
    # Pairs by other writers may have several sequences per document, here 2 + 1.
    (tmp_path / "m.bin").write_bytes(struct.pack("<6H", *range(6)))
    (tmp_path / "m.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 8, 3, 3)
        + struct.pack("<3i", 2, 1, 3)
        + struct.pack("<3q", 0, 4, 6)
        + struct.pack("<3q", 0, 2, 3)
    )
    dataset = IndexedDataset(tmp_path / "m")
    assert [dataset.document(i).tolist() for i in range(2)] == [[0, 1, 2], [3, 4, 5]]


def test_wrong_ids_are_refused(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "a", "uint16") as writer:
        with pytest.raises(ValueError, match="does not fit"):
            writer.add([65_536])
        with pytest.raises(ValueError, match="does not fit"):
            writer.add([-1])
        with pytest.raises(ValueError, match="integers"):
            writer.add([1.5])
        with pytest.raises(ValueError, match="sum to"):
            writer.add_many(np.arange(3), [1, 1])
    assert list(tmp_path.iterdir()) == []


def test_unfinished_pair_is_invisible(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "a", "int32") as writer:
        writer.add([1, 2])
        assert [path.name for path in tmp_path.iterdir()] == ["a.bin.partial"]
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with IndexedDatasetWriter(tmp_path / "a", "int32") as writer:
        writer.add([1, 2])
        monkeypatch.setattr("mmbert.data.shards.indexed_dataset.os.fsync", full)
        with pytest.raises(UserError, match=r"no space left while writing .*a\.bin"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_missing_half_is_named(tmp_path: Path, suffix: str) -> None:
    _write(tmp_path / "a", [[1]], "int32")
    (tmp_path / f"a{suffix}").unlink()
    with pytest.raises(UserError, match=rf"a\{suffix} is missing"):
        IndexedDataset(tmp_path / "a")


@pytest.mark.parametrize(("place", "value"), [(34, 2), (34, 4), (37, 128), (34 + 12 + 8, 4)])
def test_a_wrong_length_or_offset_is_named(tmp_path: Path, place: int, value: int) -> None:
    """The first of three lengths, its sign, and the second offset."""
    _write(tmp_path / "a", [[1, 2, 3], [4], [5, 6]], "uint16")
    content = bytearray((tmp_path / "a.idx").read_bytes())
    assert content[place] != value
    content[place] = value
    (tmp_path / "a.idx").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.idx is not a valid Megatron index"):
        IndexedDataset(tmp_path / "a").document(0)


@given(st.data())
@settings(deadline=None)
def test_mutated_index_never_gives_wrong_tokens_silently(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Every read of a damaged pair either raises UserError naming it or stays inside the data."""
    prefix = tmp_path_factory.mktemp("pair") / "x"
    documents = [[1, 2, 3], [4], [5, 6]]
    _write(prefix, documents, "uint16")
    path = prefix.with_name("x" + data.draw(st.sampled_from([".idx", ".bin"])))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    try:
        dataset = IndexedDataset(prefix)
        read = [dataset.document(i) for i in range(len(dataset))]
    except UserError as error:
        message = error.message
    else:
        message = str(prefix)
        assert all(document.dtype == dataset.dtype for document in read)
    assert str(prefix) in message


def test_dtype_boundary() -> None:
    assert dtype_for_vocabulary(65_536) == np.dtype("uint16")
    assert dtype_for_vocabulary(65_537) == np.dtype("int32")
