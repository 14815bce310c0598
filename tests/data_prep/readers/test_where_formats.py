"""`--where` takes the same rows from every format with columns, and stops for the same mistakes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbert.errors import ArgumentError
from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.readers import read_range
from mmbert_prep.readers.discovery import discover
from mmbert_prep.settings import PrepSettings

ROWS = [
    {"text": "kept", "score": 0.9, "url": "a"},
    {"text": "too low", "score": 0.2, "url": "b"},
    {"text": "from nowhere", "score": 0.8, "url": None},
    {"text": "kept too, in\ntwo lines", "score": 1.5, "url": "c"},
]
CONDITIONS = ("score >= 0.5", "url != 'z'")


def write_lines(folder: Path) -> None:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_array(folder: Path) -> None:
    (folder / "a.json").write_text(json.dumps(ROWS, indent=1))


def write_table(folder: Path) -> None:
    with open(folder / "a.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "score", "url"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")


def write_arrow_stream(folder: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "a.arrow").write_bytes(sink.getvalue())


def write_arrow_file(folder: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "a.arrow").write_bytes(sink.getvalue())


WRITERS = [
    write_lines,
    write_array,
    write_table,
    write_parquet,
    write_arrow_stream,
    write_arrow_file,
]


def outcomes(folder: Path, *where: str) -> list[str]:
    """Return each document's text, or the reason why it was left out."""
    settings = PrepSettings(input=str(folder), output=folder / "out", where=where)
    return [
        str(document.rejected.reason) if document.rejected else (document.data or b"").decode()
        for unit in plan_work_units(discover(settings), settings).units
        for file_range in unit.file_ranges
        for document in read_range(file_range, settings)
    ]


@pytest.mark.parametrize("write", WRITERS)
def test_rows_by_their_columns(tmp_path: Path, write: Callable[[Path], None]) -> None:
    folder = tmp_path / "eng_Latn"
    folder.mkdir()
    write(folder)
    expected = ["kept", "not_selected", "not_selected_null", "kept too, in\ntwo lines"]
    assert outcomes(tmp_path, *CONDITIONS) == expected
    assert outcomes(tmp_path, "length(text) < 5") == ["kept"] + ["not_selected"] * 3


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("condition", ["language_score > 1", "url > 1"])
def test_columns_that_do_not_fit(
    tmp_path: Path, write: Callable[[Path], None], condition: str
) -> None:
    folder = tmp_path / "eng_Latn"
    folder.mkdir()
    write(folder)
    with pytest.raises(ArgumentError, match=r"eng_Latn/a\."):
        outcomes(tmp_path, condition)
