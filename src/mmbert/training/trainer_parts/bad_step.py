"""Rows, documents and languages of a step that went wrong, for the log."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmbert.data.loading.rows import Row
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.training.train_step import StepOutcome

# Names in a line of the console; log.jsonl has all.
_LANGUAGES, _DOCUMENTS = 12, 6


def describe_rows(
    rows: Sequence[Row], outcome: StepOutcome, table: ComponentTable
) -> list[dict[str, Any]]:
    """Return the entries of this rank's rows in the `rows` of an event."""
    return [
        _describe_row(row, loss, table)
        for row, loss in zip(rows, outcome.row_losses.tolist(), strict=True)
    ]


def _describe_row(row: Row, loss: float, table: ComponentTable) -> dict[str, Any]:
    documents: dict[str, list[int]] = {}
    for component, document in dict.fromkeys(map(tuple, row.documents[:, :2].tolist())):
        documents.setdefault(table.names[component], []).append(document)
    masked = float(row.weights.sum())
    present = {table.languages[c] for c in row.segment_components.tolist() if c >= 0}
    finite = math.isfinite(loss)
    return {
        "row": row.index,
        "languages": sorted(present),
        "documents": documents,
        "loss": loss / masked if finite and masked else None,
        "finite": finite,
    }


def describe_batch(batch: Sequence[Mapping[str, Any]]) -> str:
    """Describe the rows of a global batch in a few words, and those that are not finite."""
    seen = sorted({name for row in batch for name in row["languages"]})
    text = (
        f"rows {batch[0]['row']} to {batch[-1]['row']}, "
        f"{len(seen)} languages: {_first(seen, _LANGUAGES)}"
    )
    bad = [row for row in batch if not row["finite"]]
    if not bad or len(bad) == len(batch):
        return text
    documents = [
        f"{name} {number}"
        for row in bad
        for name, numbers in row["documents"].items()
        for number in numbers
    ]
    return (
        f"{text}; not finite: row{'s' if len(bad) > 1 else ''} "
        f"{_first([str(row['row']) for row in bad], _DOCUMENTS)} with documents "
        f"{_first(documents, _DOCUMENTS)}"
    )


def _first(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:count]) + (" …" if len(names) > count else "")
