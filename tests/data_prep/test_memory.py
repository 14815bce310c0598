"""Memory of the readers is constant: a file sixty times as large takes no more."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.support.texts import ROOT, environment

_SCRIPT = """
import resource, sys
from pathlib import Path
from mmbert_prep.readers.discovery import discover
from mmbert_prep.readers import plan_ranges, read_range
from mmbert_prep.settings import PrepSettings
settings = PrepSettings(input=sys.argv[1], output=Path("out"))
size = 0
for file in discover(settings).files:
    for segment in plan_ranges(file, 1 << 40, settings):
        for document in read_range(segment, settings):
            size += len(document.data or b"")
print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
_DOCUMENT = "".join(random.Random(1).choices("abcdefgh \\n", k=10_000))


def _write(path: Path, count: int) -> None:
    texts = (f"{number} {_DOCUMENT}" for number in range(count))
    if path.suffix == ".parquet":
        # A single row group, as some writers make.
        pq.write_table(
            pa.table({"text": list(texts)}), path, row_group_size=1 << 30, use_dictionary=False
        )
        return
    opened = {".gz": gzip.open, ".zst": zstandard.open}.get(path.suffix, open)
    begin, end = {".json": (b"[0", b"]"), ".csv": (b"text\n", b"")}.get(path.suffix, (b"", b""))
    with opened(path, "wb") as file:  # type: ignore[operator]
        file.write(begin)
        for text in texts:
            if ".jsonl" in path.name:
                file.write(json.dumps({"text": text}).encode() + b"\n")
            elif path.suffix == ".json":
                file.write(b"," + json.dumps({"text": text}).encode())
            elif path.suffix == ".csv":
                file.write(f'"{text}"\n'.encode())
            else:
                file.write(text.replace("\n\n", " ").encode() + b"\n\n")
        file.write(end)


def _memory(path: Path) -> tuple[int, int]:
    output = subprocess.check_output(
        [sys.executable, "-c", _SCRIPT, str(path)], env=environment(), cwd=ROOT, text=True
    )
    size, memory = output.split()
    return int(size), int(memory) * 1024


@pytest.mark.parametrize(
    "suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "json", "csv", "txt", "parquet"]
)
def test_memory_does_not_grow_with_the_file(suffix: str, tmp_path: Path) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    for folder, count in ((small, 100), (big, 6000)):
        folder.mkdir()
        _write(folder / f"eng_Latn.{suffix}", count)
    small_size, small_memory = _memory(small)
    big_size, big_memory = _memory(big)
    assert big_size > 55e6 > 50 * small_size
    assert big_memory - small_memory < 25e6
