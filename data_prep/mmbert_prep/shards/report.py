"""Report: documents of each language by outcome, as a CSV or TSV file."""

import csv
import io
from pathlib import Path

from rich.console import Console

from mmbert.errors import ArgumentError, ShardsError
from mmbert.files import atomic_write
from mmbert_prep.executor.storage import read_json
from mmbert_prep.executor.workspace import SUMMARY_NAME
from mmbert_prep.readers import RejectReason
from mmbert_prep.shards.summary import LanguageSummary, Summary

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_COUNTS = ("train_documents", "heldout_documents")
_SIZES = ("train_tokens", "heldout_tokens", "train_bytes")
_RATES = (
    "bytes_per_token",
    "tokens_per_word",
    "characters_per_token",
    "byte_fallback_share",
    "unknown_share",
)


def report_rows(shards: Path) -> tuple[list[str], list[list[str | int | float]]]:
    """Return the header and one row per language of every finished source.

    In every row, `documents_read` is the sum of training, held-out and rejected documents.
    Languages without kept documents are included; an empty language key counts documents without a
    language. Each reason that occurs has a column, and unread bytes if there are any. Raises
    UserError if no source is finished.
    """
    paths = sorted(shards.glob(f"*/{SUMMARY_NAME}"))
    if not paths:
        raise ShardsError(
            f"{shards} contains no finished source",
            remedy="run the preprocessing command again to continue it",
        )
    summaries = {path.parent.name: Summary.model_validate(read_json(path)) for path in paths}
    reasons = sorted({reason for summary in summaries.values() for reason in summary.rejected()})
    header = ["source", "language", "documents_read", *_COUNTS]
    header += [f"rejected_{reason}" for reason in reasons] + [*_SIZES, *_RATES]
    lossy = any(summary.unread_bytes for summary in summaries.values())
    header += ["unread_bytes"] if lossy else []
    rows: list[list[str | int | float]] = []
    for source, summary in summaries.items():
        for language in sorted({*summary.languages, *summary.without_text, *summary.unread_bytes}):
            found = summary.languages.get(language)
            if found is None:
                found = _empty_summary(summary.without_text.get(language, {}))
            counts = [getattr(found, name) for name in _COUNTS]
            rejected = [found.rejected.get(reason, 0) for reason in reasons]
            others = [getattr(found, name) for name in (*_SIZES, *_RATES)]
            unread = [summary.unread_bytes.get(language, 0)] if lossy else []
            row = [source, language, found.documents_read, *counts, *rejected, *others, *unread]
            rows.append(row)
    return header, rows


def write_report(shards: Path, path: Path, console: Console) -> None:
    """Write the report to `path` (.csv or .tsv) and print its totals."""
    if path.suffix not in _DELIMITERS:
        raise ArgumentError(
            f"unknown report format {path.suffix!r} of {path}", remedy="use .csv or .tsv"
        )
    header, rows = report_rows(shards)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=_DELIMITERS[path.suffix], lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
    counted = header[2 : header.index(_SIZES[1]) + 1]
    counted += ["unread_bytes"] if "unread_bytes" in header else []
    sums = {name: sum(int(row[header.index(name)]) for row in rows) for name in counted}
    totals = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sums.items())
    console.print(f"{path}: {len(rows):,} languages: {totals}", soft_wrap=True, markup=False)


def _empty_summary(rejected: dict[RejectReason, int]) -> LanguageSummary:
    names = LanguageSummary.model_fields
    zeros = {name: 0 for name in names if name != "rejected"}
    read = sum(rejected.values())
    return LanguageSummary.model_validate({**zeros, "rejected": rejected, "documents_read": read})
