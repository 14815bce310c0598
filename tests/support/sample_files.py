"""A sample file of every input format, for the tests of reading, damage and faults.

A new format needs an entry here; `tests/data_prep/readers` checks that every format has one.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
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


def _arrow_stream(path: Path, texts: Sequence[str]) -> None:
    table = pa.Table.from_pylist(rows("eng_Latn", texts))
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=11)


def _arrow_file(path: Path, texts: Sequence[str]) -> None:
    table = pa.table({"n": list(range(len(texts))), "text": list(texts)})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def _table(path: Path, texts: Sequence[str]) -> None:
    dialect = csv.excel_tab if path.suffix == ".tsv" else csv.excel
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, dialect)
        writer.writerow(["n", "text"])
        writer.writerows((str(number), text) for number, text in enumerate(texts))


def _json(texts: Sequence[str], indent: int | None = None) -> str:
    return json.dumps([{"n": [1.5, None], "text": text} for text in texts], indent=indent)


def _text(path: Path, texts: Sequence[str]) -> None:
    path.write_text("\n \n\t\n" + "\n\n \n".join(texts) + "\n\n\n", encoding="utf-8")


TEXT_FILES: dict[str, Callable[[Path, Sequence[str]], object]] = {
    ".parquet": _parquet,
    ".1.parquet": _plain_parquet,
    ".jsonl": lambda path, texts: path.write_bytes(_lines(texts)),
    ".jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(_lines(texts))),
    ".jsonl.zst": lambda path, texts: path.write_bytes(zstandard.compress(_lines(texts))),
    ".jsonl.bz2": lambda path, texts: path.write_bytes(bz2.compress(_lines(texts))),
    ".jsonl.xz": lambda path, texts: path.write_bytes(lzma.compress(_lines(texts))),
    ".1.jsonl": lambda path, texts: path.write_text(_lines(texts).decode(), "utf-16"),
    ".json": lambda path, texts: path.write_text(_json(texts, indent=1)),
    ".1.json": lambda path, texts: path.write_text(_json(texts)),
    ".txt": _text,
    ".csv": _table,
    ".tsv": _table,
    ".arrow": _arrow_stream,
    ".feather": _arrow_file,
}
"""Suffix -> function that writes each text as a document."""

TOKEN_FILES: dict[str, Callable[[Path, Sequence[str]], object]] = {
    ".mds": _mds,
    ".idx": _megatron,
}
"""Suffix -> function that writes TOKEN_IDS once per text."""

SAMPLE_FILES = TEXT_FILES | TOKEN_FILES
