"""Documents of rows without a schema: JSON, tables, datasets by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mmbert_prep.readers.documents import Document, Row
from mmbert_prep.readers.language_columns import ColumnLanguage, LanguageColumns
from mmbert_prep.readers.where import selected_rows
from mmbert_prep.settings import InputSettings


def documents_of_rows(
    rows: Iterable[Row | Document],
    given: str | None,
    settings: InputSettings,
    document: Callable[[Row, ColumnLanguage], Document],
    *,
    texts_only: bool = False,
) -> Iterator[Document]:
    """Yield the documents of the rows that `settings.where` selects, in order.

    Args:
        rows: rows, and documents that were rejected before, which pass through.
        given: language of the whole file; None if columns have it.
        document: makes the document of a row in a language.
        texts_only: all values are texts, as in CSV.
    """
    languages = LanguageColumns(settings)
    if settings.where:
        rows = selected_rows(
            rows,
            settings,
            lambda values: languages.of_row(values, given).key,
            texts_only=texts_only,
        )
    for row in rows:
        if isinstance(row, Document):
            yield row
        else:
            yield document(row, languages.of_row(row.values, given))
