"""Rows that `--where` selects, in the stream of a reader."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mmbert_prep.readers.documents import Document, Row
from mmbert_prep.readers.where.condition import Condition
from mmbert_prep.settings import InputSettings

LanguageOfRow = Callable[[dict[str, Any]], str | None]

_BATCH_ROWS = 256
_BATCH_CHARACTERS = 4_000_000  # bounds the memory of a worker


@functools.cache
def condition_of(texts: tuple[str, ...]) -> Condition:
    """Return the conditions of the option's values, parsed once."""
    return Condition(texts)


def selected_rows(
    rows: Iterable[Row | Document],
    settings: InputSettings,
    language_of_row: LanguageOfRow,
    *,
    texts_only: bool = False,
) -> Iterator[Row | Document]:
    """Yield rows in order, those that `settings.where` leaves out as rejected documents.

    Documents that were rejected before pass through. `texts_only`: see `Condition.on_rows`.
    """
    selected = condition_of(settings.where).on_rows(texts_only=texts_only)
    for batch in _batches(rows, settings.text_column):
        values = [row.values for row in batch if not isinstance(row, Document)]
        reasons = iter(selected.reasons(values))
        for row in batch:
            if isinstance(row, Document) or (reason := next(reasons)) is None:
                yield row
            else:
                yield Document.reject(language_of_row(row.values), reason, size=row.size)


def _batches(rows: Iterable[Row | Document], text_column: str) -> Iterator[list[Row | Document]]:
    batch: list[Row | Document] = []
    size = 0
    for row in rows:
        batch.append(row)
        text = None if isinstance(row, Document) else row.values.get(text_column)
        size += len(text) if isinstance(text, str) else 0
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
