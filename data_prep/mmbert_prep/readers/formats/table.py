"""CSV and TSV with a header: rows of several lines, quotation marks, any delimiter."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator

from mmbert_prep.readers.documents import Compression, Document, FileRange, InputFile, Row
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.formats.record_batches import check_columns
from mmbert_prep.readers.language_columns import ColumnLanguage
from mmbert_prep.readers.rejection import RejectReason
from mmbert_prep.readers.row_documents import documents_of_rows
from mmbert_prep.readers.streams import CountedBlocks, DamagedFileError
from mmbert_prep.readers.text_blocks import text_blocks
from mmbert_prep.readers.where import condition_of
from mmbert_prep.settings import InputSettings

_DELIMITERS = (",", ";", "\t", "|")
_MAX_FIELD = 2**31 - 1  # of the csv module on all platforms
_ENDS_INSIDE = "unexpected end of data"  # the error of the csv module
_OTHER_COLUMNS = 16 << 20  # bytes of a row beside a text of maximum length


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    text_column, maximum = settings.text_column, settings.maximum_bytes

    def document(row: Row, found: ColumnLanguage) -> Document:
        (values, size), (language, written) = row, found
        data = values[text_column].encode("utf-8", "surrogateescape")
        if len(data) > maximum:
            return Document.reject(language, RejectReason.TOO_LONG, size=size)
        return Document(data, language, size=size, written_language=written)

    rows = _named_rows(file_range, settings)
    return documents_of_rows(rows, file_range.language, settings, document, texts_only=True)


def _named_rows(file_range: FileRange, settings: InputSettings) -> Iterator[Row | Document]:
    """Yield the rows by name of column, and a rejected document for one of another length."""
    blocks = CountedBlocks(text_blocks(file_range, settings), file_range.input_bytes)
    lines = _Lines(blocks, settings.maximum_bytes + _OTHER_COLUMNS)
    names, delimiter = _header(lines, file_range.path, settings)
    check_columns(names, settings)
    for row in _rows(lines, delimiter, len(names), settings.quotes):
        if len(row) == len(names):
            yield Row(dict(zip(names, row, strict=True)), lines.row_bytes)
        elif row:  # not a blank line
            reason = RejectReason.BROKEN_ROW
            yield Document.reject(file_range.language, reason, size=lines.row_bytes)


def _check_conditions(file: InputFile, settings: InputSettings) -> None:
    (whole,) = file.whole()
    with contextlib.suppress(DamagedFileError, OSError):  # reading reports the damage
        rows = _named_rows(whole, settings)
        condition_of(settings.where).check_rows(rows, file.path, texts_only=True)


class _Lines:
    """Iterator over lines with their ends, which bounds the length of a row of several lines."""

    def __init__(self, blocks: CountedBlocks, limit: int) -> None:
        self._lines = self._split(blocks)
        self._blocks, self._limit = blocks, limit
        self.number = 0
        """Number of the last line."""
        self.row: list[str] = []
        """Lines of the row that is being read."""
        self.row_bytes = 0
        """Bytes of that row."""
        self._row_start, self._bytes_before = 1, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self.row_bytes += len(line)
        if self.row_bytes > self._limit:
            raise self._too_long()
        text = line.decode("utf-8", "surrogateescape")
        self.row.append(text)
        return text

    def begin_row(self) -> None:
        """Note that the next line begins a row."""
        self.row = []
        self._bytes_before += self.row_bytes
        self._row_start, self.row_bytes = self.number + 1, 0

    def damage(self, problem: str) -> DamagedFileError:
        """Return an error that leaves the current row and all after it unread."""
        return DamagedFileError(problem, unread=self._blocks.left_after(self._bytes_before))

    def where(self) -> str:
        """Return the place of the current row, for messages."""
        lines = f"line {self._row_start}"
        return lines if self.number <= self._row_start else f"{lines} to {self.number}"

    def _split(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        parts: list[bytes] = []
        length = 0
        for block in blocks:
            *complete, rest = block.split(b"\n")
            for piece in complete:
                yield b"".join([*parts, piece, b"\n"])
                parts, length = [], 0
            parts.append(rest)
            length += len(rest)
            if length > self._limit:
                raise self._too_long()
        if length:
            yield b"".join(parts)

    def _too_long(self) -> DamagedFileError:
        return self.damage(
            f"the row at line {self._row_start} is longer than {self._limit} bytes; a quotation "
            "mark that is not closed? --no-quotes reads files in which they enclose nothing"
        )


def _header(lines: _Lines, path: str, settings: InputSettings) -> tuple[list[str], str]:
    """Return the names of the columns and the delimiter.

    The delimiter is `--delimiter`; else tab in .tsv files; else the first of comma, semicolon, tab
    and bar that makes the text column one of the names; else the most frequent of them.
    """
    first = next(lines, "")
    if "\r" in first.rstrip("\r\n"):
        raise DamagedFileError("its lines end in carriage returns alone: convert them to newlines")
    header = first.rstrip("\r\n")
    if settings.delimiter is not None:
        candidates: tuple[str, ...] = (settings.delimiter,)
    else:
        candidates = ("\t",) if ".tsv" in os.path.basename(path).lower() else _DELIMITERS
    for delimiter in candidates:
        names = _split(header, delimiter, settings.quotes)
        if settings.text_column in names:
            return names, delimiter
    delimiter = max(candidates, key=header.count)
    return _split(header, delimiter, settings.quotes), delimiter


def _split(line: str, delimiter: str, quotes: bool) -> list[str]:
    try:
        parsed = [line.split(delimiter)] if not quotes else csv.reader([line], delimiter=delimiter)
        return [name.strip() for name in next(iter(parsed), [])]
    except csv.Error as error:
        raise DamagedFileError(f"its header: {error}") from error


def _rows(lines: _Lines, delimiter: str, columns: int, quotes: bool) -> Iterator[list[str]]:
    lines.begin_row()
    if not quotes:
        for line in lines:
            text = line.removesuffix("\n").removesuffix("\r")
            yield text.split(delimiter) if text else []
            lines.begin_row()
        return
    csv.field_size_limit(_MAX_FIELD)  # the length of a row is bounded here
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            # What follows a misplaced quotation mark may be the inside of a text.
            damage = lines.damage(
                f"{lines.where()}: {error}; --no-quotes reads files in which quotation marks "
                "enclose nothing"
            )
            if str(error) == _ENDS_INSIDE:
                damage.unread = None  # it may have been cut short, and by how much is unknown
            raise damage from error
        if row is None:
            return
        if delimiter == "\t" and len(lines.row) > 1 and columns > 1:
            _refuse_swallowed_rows(lines, columns)
        yield row
        lines.begin_row()


def _refuse_swallowed_rows(lines: _Lines, columns: int) -> None:
    """Raise DamagedFileError if a row of a TSV file seems to be several.

    Most TSV files are written without quoting, and there a quotation mark at the start of a text
    makes all lines up to the next one a single row.
    """
    if any(line.count("\t") == columns - 1 for line in lines.row[1:]):
        raise lines.damage(
            f"{lines.where()}: quotation marks enclose lines that are rows by themselves; "
            "--no-quotes reads files in which they enclose nothing"
        )


def _has_languages(path: str, compression: Compression, settings: InputSettings) -> bool:
    """Return whether the header has the first language column; True if it cannot be read."""
    size = os.path.getsize(path)
    file = InputFile(path, TABLE.name, compression, None, size, 0)
    try:
        blocks = CountedBlocks(text_blocks(file.whole()[0], settings), size)
        lines = _Lines(blocks, _OTHER_COLUMNS)
        names, _ = _header(lines, path, settings)
    except (DamagedFileError, OSError):
        return True  # reading reports the damage
    return bool(settings.language_columns) and settings.language_columns[0] in names


TABLE = FileFormat(
    name="table",
    read=_read,
    suffixes=(".csv", ".tsv"),
    has_languages=_has_languages,
    check_conditions=_check_conditions,
)
