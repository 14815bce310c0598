"""Text splitting at positions that no token can span, so that tokens do not change.

SentencePiece BPE keeps a queue of all adjacent pairs of a text. Chunks of a few hundred characters
are a quarter faster. They also bound memory, at about 100 bytes per character: a document of 100 MB
on one line would take many gigabytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

SPACE = "\u2581"
LONG_CHARACTERS = 200_000
"""Encoders split longer texts in any case, if possible."""

_FORCED_CHUNK = 60_000  # characters per chunk of a long text without a split position
_SEARCH_CHARACTERS = 20_000  # search range for a split position
_BATCH_CHARACTERS = 4_000_000  # characters per call of a tokenizer; bounds memory


class TextSplitter:
    """Splits texts between characters that are not adjacent in any piece of the vocabulary.

    A merge never joins such a pair: the concatenated BPE encodings of the chunks equal the encoding
    of the text. The same holds for unigram, except for the choice between equally good encodings.

    `joins_unknown`: adjacent characters outside the vocabulary become one token (SentencePiece
    without byte fallback), so texts are not split after such a character.
    """

    def __init__(self, pieces: Sequence[str], joins_unknown: bool = False) -> None:
        self._pairs: set[str] = set()
        for piece in pieces:
            for pair in map("".join, itertools.pairwise(piece)):
                # A text may contain the space and also the character that represents it in pieces.
                choices = [SPACE + " " if character == SPACE else character for character in pair]
                self._pairs.update(map("".join, itertools.product(*choices)))
        self._known: set[str] | None = set("".join(pieces)) | {" "} if joins_unknown else None

    def split(self, text: str, characters: int, at_spaces_only: bool = False) -> list[str]:
        """Split a text into chunks of about `characters`, whose concatenation is the text.

        With `at_spaces_only`, chunks are separated by single spaces, which they omit. Without a
        split position in 20,000 characters, the last chunk is the rest of the text. A rest longer
        than LONG_CHARACTERS is cut after 60,000 characters instead (not with `at_spaces_only`);
        its tokens may change, but still decode to the text.
        """
        chunks: list[str] = []
        start = 0
        while len(text) - start > characters * 3 // 2:
            position = self._split_position(text, start + characters, at_spaces_only)
            if position is None:
                if at_spaces_only or len(text) - start <= LONG_CHARACTERS:
                    break
                position = start + _FORCED_CHUNK
            chunks.append(text[start:position])
            start = position + 1 if at_spaces_only else position
        chunks.append(text[start:])
        return chunks

    def _split_position(self, text: str, begin: int, at_spaces_only: bool) -> int | None:
        pairs, known = self._pairs, self._known
        for position in range(begin, min(begin + _SEARCH_CHARACTERS, len(text) - 1)):
            pair = text[position - 1 : position + 1]
            if pair in pairs or (known is not None and pair[0] not in known):
                continue
            if not at_spaces_only:
                return position
            # A single space between two characters becomes the prefix of the next chunk.
            if (
                pair[1] == " "
                and pair[0] not in (" ", SPACE)
                and text[position + 1] not in " " + SPACE
            ):
                return position
        return None


def encode_in_chunks(
    texts: Iterable[str],
    split: Callable[[str], list[str]],
    encode: Callable[[list[str]], list[np.ndarray]],
) -> list[np.ndarray]:
    """Split each text into chunks, encode the chunks in batches and concatenate their ids."""
    chunks: list[str] = []
    counts: list[int] = []
    for text in texts:
        own = split(text)
        chunks += own
        counts.append(len(own))
    arrays = iter([array for group in _groups(chunks) for array in encode(group)])
    return [
        next(arrays) if count == 1 else np.concatenate(list(itertools.islice(arrays, count)))
        for count in counts
    ]


def _groups(chunks: list[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for chunk in chunks:
        if group and size + len(chunk) > _BATCH_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(chunk)
        size += len(chunk)
    if group:
        yield group
