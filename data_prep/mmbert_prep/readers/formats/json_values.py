"""JSON arrays and pretty-printed objects of any size, read value by value."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from mmbert_prep.readers.streams import CountedBlocks, DamagedFileError

_BLANK = " \t\r\n"
_AFTER = tuple(f"{_BLANK},]")
_OTHER_KEYS = 16 << 20  # characters of a value beside a text of maximum length


def json_values(blocks: Iterator[bytes], maximum_bytes: int) -> Iterator[Any]:
    """Yield the elements of top-level arrays, and other top-level values; any number in a row.

    Memory is bounded by the longest value. Invalid UTF-8 becomes lone surrogates, so that only the
    document that contains it is rejected. Raises DamagedFileError at the first place that is no
    JSON: what follows may be the inside of a text.
    """
    for value, _ in sized_json_values(CountedBlocks(blocks, 0), maximum_bytes):
        yield value


def sized_json_values(blocks: CountedBlocks, maximum_bytes: int) -> Iterator[tuple[Any, int]]:
    """Yield what `json_values` yields, each with its size in bytes.

    The error has the bytes that are left, or none if the text does not end with a closing bracket.
    """
    text = _Text(blocks, maximum_bytes + _OTHER_KEYS)
    while start := text.peek():
        if start == "[":
            yield from _elements(text)
        else:
            yield text.value()


def _elements(text: _Text) -> Iterator[tuple[Any, int]]:
    text.skip()
    if text.peek() == "]":
        text.skip()
        return
    while True:
        yield text.value()
        end = text.peek()
        if end not in (",", "]"):
            raise text.error("a comma or ] was expected")
        text.skip()
        if end == "]":
            return


class _Text:
    """Text of which a part is in memory, and a position in it."""

    def __init__(self, blocks: CountedBlocks, limit: int) -> None:
        self._blocks, self._limit = blocks, limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._parser = json.JSONDecoder()
        self._buffer = ""
        self._position = self._before = 0
        self._bytes = 0  # before the position
        self._ended = False

    def peek(self) -> str:
        """Go to the next character that is not blank; return it, or "" at the end."""
        while True:
            rest = len(self._buffer)
            while self._position < rest and self._buffer[self._position] in _BLANK:
                self._position += 1
                self._bytes += 1
            if self._position < rest:
                return self._buffer[self._position]
            if not self._read_more():
                return ""

    def skip(self) -> None:
        """Go on by one character, of one byte."""
        self._position += 1
        self._bytes += 1

    def value(self) -> tuple[Any, int]:
        """Return the value at the position, with its size in bytes, and go behind it."""
        if not self.peek():
            raise self.error("it ends where a value was expected")
        while True:
            problem: Exception | None = None
            try:
                value, end = self._parser.raw_decode(self._buffer, self._position)
                # A number may go on in the next block, or be cut short.
                if not isinstance(value, int | float) or self._buffer[end : end + 1] in _AFTER:
                    written = self._buffer[self._position : end]
                    size = len(written.encode("utf-8", "surrogateescape"))
                    self._position = end
                    self._bytes += size
                    return value, size
            except (ValueError, RecursionError) as error:
                problem = error
            if self._ended:
                raise self.error("no JSON value, or one that is cut short", problem) from problem
            size = len(self._buffer) - self._position
            if size > self._limit:
                raise self.error(f"no value ends within {self._limit} characters")
            # Doubling: a long value is parsed a few times, not once for each block.
            while self._read_more() and len(self._buffer) - self._position < 2 * size:
                pass

    def error(self, problem: str, cause: Exception | None = None) -> DamagedFileError:
        """Return the error that names the position."""
        text = self._buffer[self._position :].rstrip(_BLANK)
        stopped = getattr(cause, "pos", self._position) - self._position
        cut_short = self._ended and (stopped >= len(text) or text[-1] not in "]}")
        return DamagedFileError(
            f"JSON, character {self._before + self._position}: {problem}",
            unread=None if cut_short else self._blocks.left_after(self._bytes),
        )

    def _read_more(self) -> bool:
        if self._ended:
            return False
        block = next(self._blocks, None)
        self._ended = block is None
        more = self._decoder.decode(block or b"", final=self._ended)
        self._before += self._position
        self._buffer = self._buffer[self._position :] + more
        self._position = 0
        return not self._ended or bool(more)
