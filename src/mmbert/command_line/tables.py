"""Tables that keep every figure in a narrow terminal: words wrap, and then rows become lists.

rich shortens cells to the width, so that `12,345` would become `12,…`.
"""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

_UNLIMITED = 100_000


class WholeTable(Table):
    """A table that is as wide as its contents, or wraps between words, or is written as lists."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render for the width in `options`."""
        wide = options.update(width=_UNLIMITED)
        needed = Measurement.get(console, wide, self)
        if needed.maximum <= options.max_width:
            yield from super().__rich_console__(console, options)
        elif needed.minimum <= options.max_width:
            self._set_widths(console, wide, options.max_width - needed.minimum)
            yield from super().__rich_console__(console, options)
        else:
            for line in self._lists(console):
                line.no_wrap, line.overflow = True, "ignore"
                yield line

    def _set_widths(self, console: Console, options: ConsoleOptions, left: int) -> None:
        """Give each column its longest word and its part of the `left` characters."""
        measured = [(column, _measure(console, options, column)) for column in self.columns]
        measured.sort(key=lambda item: item[1].span)
        for number, (column, needed) in enumerate(measured):
            more = min(needed.span, left // (len(measured) - number))
            column.width, column.no_wrap, column.overflow = needed.minimum + more, False, "fold"
            left -= more

    def _lists(self, console: Console) -> Iterator[Text]:
        """Write each row as its name and lines `heading: cell`."""
        if self.title:
            yield _text(console, self.title)
        named = self.columns[0].justify != "right"  # a figure is not a name
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            if named and (name := _text(console, cells[0])).plain:
                yield name
            for column, cell in list(zip(self.columns, cells, strict=True))[named:]:
                value = _text(console, cell)
                if value.plain:
                    yield Text.assemble("  ", _text(console, column.header), ": ", value)
        if self.caption:
            yield _text(console, self.caption)


def _measure(console: Console, options: ConsoleOptions, column: Column) -> Measurement:
    found = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
    return Measurement(max(one.minimum for one in found), max(one.maximum for one in found))


def _text(console: Console, cell: RenderableType) -> Text:
    if isinstance(cell, Text):
        return cell.copy()
    found: Any = cell
    return console.render_str(str(found))
