"""Compares a report of `mmbert inspect SHARDS --report` with independent counts of the input.

    python -m tests.data_prep.check_report INPUT REPORT.tsv

Counts the documents of each language with pyarrow, json and plain Python, without the readers of
the project, and compares them with the documents read in the report, and those with the sum of kept
and rejected documents. The language must be in the path or in columns with the default names.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import zstandard

KEY = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


def count_documents(folder: Path) -> Counter[str]:
    """Return language -> number of documents below `folder`, valid or not."""
    found: Counter[str] = Counter()
    for path in sorted(folder.rglob("*")):
        language = _language(path.relative_to(folder))
        if path.suffix == ".parquet":
            columns = [] if language else ["language", "language_script"]
            table = pq.read_table(path, columns=columns)
            if language:
                found[language] += table.num_rows
            else:
                found.update(f"{r['language']}_{r['language_script']}" for r in table.to_pylist())
        elif ".jsonl" in path.name:
            for line in _lines(path):
                if line.strip():
                    item = json.loads(line)
                    found[language or f"{item['language']}_{item['language_script']}"] += 1
        elif path.suffix == ".txt" and language:
            blocks = re.split(r"\n(?:[^\S\n]*\n)+", path.read_text(encoding="utf-8"))
            found[language] += sum(1 for block in blocks if block.strip())
    return found


def _language(path: Path) -> str | None:
    for part in reversed(path.parts):
        name = part.split(".")[0]
        if KEY.fullmatch(name):
            return name
    return None


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as text:
            yield from text
    elif path.suffix == ".zst":
        with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            yield from io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
    else:
        with open(path, encoding="utf-8", newline="\n") as text:
            yield from text


def differences(folder: Path, report: Path) -> list[str]:
    """Return the differences as text; empty if the report matches the input."""
    with open(report, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    expected = count_documents(folder)
    wrong = []
    read = Counter({row["language"]: int(row["documents_read"]) for row in rows})
    for language in sorted(expected.keys() | read.keys()):
        if expected[language] != read[language]:
            wrong.append(
                f"{language}: the input has {expected[language]} documents, "
                f"the report {read[language]}"
            )
    for row in rows:
        kept = int(row["train_documents"]) + int(row["heldout_documents"])
        rejected = sum(int(value) for name, value in row.items() if name.startswith("rejected_"))
        if kept + rejected != int(row["documents_read"]):
            wrong.append(f"{row['language']}: {kept} kept and {rejected} rejected of {row}")
    return wrong


def main() -> int:
    folder, report = Path(sys.argv[1]), Path(sys.argv[2])
    wrong = differences(folder, report)
    for line in wrong:
        print(line)
    if not wrong:
        found = count_documents(folder)
        print(f"{found.total():,} documents in {len(found)} languages: all sums match the input")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
