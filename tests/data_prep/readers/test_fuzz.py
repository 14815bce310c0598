"""Mutated files of every format: whatever is in them, the file is named and nothing crashes."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mmbert.data.shards.indexed_dataset import IndexedDatasetWriter
from mmbert_prep.filters.cleaning import Cleaner
from mmbert_prep.readers import DAMAGE_REASONS, plan_ranges, read_range
from mmbert_prep.readers.discovery import discover
from tests.data_prep.readers.test_tokenized import array, write_mds
from tests.support.texts import documents, json_lines, settings

TEXTS = documents("eng_Latn", 60)
DOCUMENT = list(range(300, 340))


def _parquet(path: Path) -> None:
    table = pa.table({"text": TEXTS, "language": ["eng"] * 60, "language_script": ["Latn"] * 60})
    pq.write_table(table, path, row_group_size=13)


def _parquet_plain(path: Path) -> None:
    table = pa.table({"text": TEXTS})
    pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=13)


def _mds(path: Path) -> None:
    samples = [
        {"id": b"x", "input_ids": array(np.arange(300, 340, dtype="<u4"), True)} for _ in TEXTS
    ]
    write_mds(path, samples, {"id": "str", "input_ids": "ndarray:uint32"})


def _pair(path: Path) -> None:
    with IndexedDatasetWriter(path.with_suffix(""), np.uint16) as writer:
        for _ in TEXTS:
            writer.add(DOCUMENT)
        writer.finish()


def _lines() -> bytes:
    return json_lines({"text": text, "n": [1.5, None]} for text in TEXTS)


FORMATS: dict[str, Callable[[Path], object]] = {
    "eng_Latn.parquet": _parquet,
    "eng_Latn.1.parquet": _parquet_plain,
    "eng_Latn.jsonl": lambda path: path.write_bytes(_lines()),
    "eng_Latn.jsonl.gz": lambda path: path.write_bytes(gzip.compress(_lines())),
    "eng_Latn.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(_lines())),
    "eng_Latn.txt": lambda path: path.write_text("\n\n".join(TEXTS)),
    "eng_Latn.mds": _mds,
    "eng_Latn.idx": _pair,
}


def mutate(data: bytes, generator: random.Random) -> bytes:
    """Some of: bits flipped, a piece removed, doubled, filled, moved, or the end cut off."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(max(1, len(changed)))
        stop = min(len(changed), start + generator.choice((1, 2, 4, 8, 50, 400)))
        way = generator.randrange(7)
        if way <= 1 and changed:
            changed[start % len(changed)] ^= 1 << generator.randrange(8)
        elif way == 2:
            del changed[start:stop]
        elif way == 3:
            changed[start:start] = changed[start:stop]
        elif way == 4:
            filler = generator.choice((0, 0xFF, generator.randrange(256)))
            changed[start:stop] = bytes([filler]) * (stop - start)
        elif way == 5:
            del changed[start:]
        else:
            changed[start:stop] = generator.randbytes(stop - start)
    return bytes(changed)


def check(name: str, seed: int, folder: Path) -> None:
    """Read one mutated file; every document has a text, tokens or a reason."""
    generator = random.Random(f"{name} {seed}")
    path = folder / name
    FORMATS[name](path)
    victim = path
    if name.endswith(".idx") and generator.random() < 0.3:
        victim = path.with_suffix(".bin")
    victim.write_bytes(mutate(victim.read_bytes(), generator) or b"x")
    options = settings(folder, folder / "out", maximum_bytes=100_000)
    cleaner = Cleaner(options)
    for file in discover(options).files:
        for file_range in plan_ranges(file, generator.choice((500, 1 << 30)), options):
            for document in read_range(file_range, options):
                if document.problem is not None:
                    assert document.problem in DAMAGE_REASONS
                    if document.problem == "damaged_file":
                        assert document.detail is not None
                        assert name in document.detail
                elif document.tokens is not None:
                    assert document.tokens.dtype == np.int32
                    assert document.tokens.size == 0 or int(document.tokens.min()) >= 0
                    if victim.suffix == ".idx":  # whole documents, whatever their grouping
                        assert document.tokens.tolist() == DOCUMENT * (len(document.tokens) // 40)
                else:
                    result = cleaner.clean(document)
                    assert isinstance(result, str) or result.text.encode() == result.data


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    for seed in range(40):
        check(name, seed, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_many_mutated_files(name: str, tmp_path: Path) -> None:
    for seed in range(1000, 2300):
        check(name, seed, tmp_path)
