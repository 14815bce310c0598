"""Demo corpus in about 250 languages, without a download: `python -m mmbert_prep.demo.corpus OUT`.

Generated from the CLDR data of the Babel package, in three tiers of languages like a web corpus and
in different formats: Parquet in language folders (high tier), zstd JSON lines (middle tier), text
files with blank lines between documents (low tier), and one gzip JSON lines file with language
columns (a part of the low tier).
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer
import zstandard
from babel import localedata
from babel.core import get_global

from mmbert.command_line.running import run_application
from mmbert_prep.demo.text import DocumentGenerator, own_names
from mmbert_prep.languages.resolution import resolve

HIGH = ("en", "de", "fr", "es", "ru", "zh", "ja", "pt", "it", "tr", "ar", "pl")
MIDDLE_COUNT = 46
HIGH_BYTES, MIDDLE_BYTES, LOW_BYTES = 260_000, 55_000, 12_000
# Fewer characters of names are not enough for 20 distinct documents.
_MIN_NAME_CHARACTERS = 1_300
_MIN_DOCUMENTS = 20


def demo_languages() -> dict[str, str]:
    """Return language key -> CLDR locale, high tier first, then by decreasing size of names."""
    likely = get_global("likely_subtags")
    sizes: dict[str, tuple[bool, int, str]] = {}
    for identifier in sorted(localedata.locale_identifiers()):
        parts = identifier.split("_")
        if len(parts) > 2 or (len(parts) == 2 and len(parts[1]) != 4):
            continue  # a regional variant
        full = likely.get(identifier) or likely.get(parts[0])
        script = parts[1] if len(parts) == 2 else (full.split("_")[1] if full else "")
        key = resolve(f"{parts[0]}_{script}").key
        size = sum(len(n) for names in own_names(identifier).values() for n in names.values())
        # Simplified and traditional Chinese have one key.
        found = (identifier in HIGH, size, identifier)
        if key is not None and size >= _MIN_NAME_CHARACTERS and found > sizes.get(key, ()):
            sizes[key] = found
    order = sorted(sizes, key=lambda key: (not sizes[key][0], -sizes[key][1], key))
    return {key: sizes[key][2] for key in order}


def _documents(identifier: str, target_bytes: int) -> list[str]:
    documents: list[str] = []
    size = 0
    maker = DocumentGenerator(identifier)
    if maker.variety < 2:
        return []
    for text in maker.documents():
        documents.append(text)
        size += len(text.encode())
        if size >= target_bytes and len(documents) >= 2 * _MIN_DOCUMENTS:
            break
    return documents


def _rows(language: str, documents: list[str]) -> list[dict[str, str]]:
    code, script = language.split("_")
    return [
        {"id": f"{language}/{number}", "text": text, "language": code, "language_script": script}
        for number, text in enumerate(documents)
    ]


def _json_lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_demo_corpus(folder: Path) -> dict[str, int]:
    """Write the corpus to `folder`; return language key -> number of documents.

    Deterministic for a Babel release. Raises FileExistsError if `folder` is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    counts: dict[str, int] = {}
    columns: list[dict[str, str]] = []
    for place, (language, identifier) in enumerate(demo_languages().items()):
        high, middle = place < len(HIGH), place < len(HIGH) + MIDDLE_COUNT
        target = HIGH_BYTES if high else MIDDLE_BYTES if middle else LOW_BYTES
        documents = _documents(identifier, target)
        if len(documents) < _MIN_DOCUMENTS:
            continue
        counts[language] = len(documents)
        rows = _rows(language, documents)
        if high:
            (folder / "parquet" / language).mkdir(parents=True)
            half = len(rows) // 2
            for number, part in enumerate((rows[:half], rows[half:])):
                path = folder / "parquet" / language / f"{number:03d}.parquet"
                pq.write_table(pa.Table.from_pylist(part), path, row_group_size=200)
        elif middle:
            (folder / "jsonl").mkdir(exist_ok=True)
            data = zstandard.ZstdCompressor(level=6).compress(_json_lines(rows))
            (folder / "jsonl" / f"{language}.jsonl.zst").write_bytes(data)
        elif place % 4:
            (folder / "text").mkdir(exist_ok=True)
            text = "\n\n".join(documents) + "\n"
            (folder / "text" / f"{language}.txt").write_text(text, encoding="utf-8", newline="\n")
        else:
            columns += rows
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(_json_lines(columns))
    (folder / "columns").mkdir()
    (folder / "columns" / "part-0.jsonl.gz").write_bytes(buffer.getvalue())
    return counts


def main(output: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write the demo corpus. Example: python -m mmbert_prep.demo.corpus demo/corpus"""
    try:
        counts = write_demo_corpus(output)
    except FileExistsError as error:
        print(f"{error}: give a new folder", file=sys.stderr)
        raise typer.Exit(2) from error
    print(f"{len(counts)} languages, {sum(counts.values())} documents in {output}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    sys.exit(run_application(app))
