"""A sample file of every input format, for the tests of reading, damage and faults.

A new format needs an entry here; `tests/data_prep/readers` checks that every format has one.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from mmbert.data.shards.indexed_dataset import IndexedDatasetWriter
from tests.support.mds_shards import array, write_mds
from tests.support.texts import json_lines, rows

TOKEN_IDS = list(range(300, 340))
"""Tokens of each document of TOKEN_FILES."""


def _parquet(path: Path, texts: Sequence[str]) -> None:
    pq.write_table(pa.Table.from_pylist(rows("eng_Latn", texts)), path, row_group_size=7)


def _plain_parquet(path: Path, texts: Sequence[str]) -> None:
    table = pa.table({"text": list(texts)})
    pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=13)


def _lines(texts: Sequence[str]) -> bytes:
    return json_lines({"text": text, "n": [1.5, None]} for text in texts)


def _mds(path: Path, texts: Sequence[str]) -> None:
    samples = [
        {"id": b"x", "input_ids": array(np.array(TOKEN_IDS, dtype="<u4"), True)} for _ in texts
    ]
    write_mds(path, samples, {"id": "str", "input_ids": "ndarray:uint32"})


def _megatron(path: Path, texts: Sequence[str]) -> None:
    with IndexedDatasetWriter(path.with_suffix(""), np.uint16) as writer:
        for _ in texts:
            writer.add(TOKEN_IDS)
        writer.finish()


def _text(path: Path, texts: Sequence[str]) -> None:
    path.write_text("\n \n\t\n" + "\n\n \n".join(texts) + "\n\n\n", encoding="utf-8")


TEXT_FILES: dict[str, Callable[[Path, Sequence[str]], object]] = {
    ".parquet": _parquet,
    ".1.parquet": _plain_parquet,
    ".jsonl": lambda path, texts: path.write_bytes(_lines(texts)),
    ".jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(_lines(texts))),
    ".jsonl.zst": lambda path, texts: path.write_bytes(zstandard.compress(_lines(texts))),
    ".txt": _text,
}
"""Suffix -> function that writes each text as a document."""

TOKEN_FILES: dict[str, Callable[[Path, Sequence[str]], object]] = {
    ".mds": _mds,
    ".idx": _megatron,
}
"""Suffix -> function that writes TOKEN_IDS once per text."""

SAMPLE_FILES = TEXT_FILES | TOKEN_FILES
