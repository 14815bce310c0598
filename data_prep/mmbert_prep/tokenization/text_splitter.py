"""Cut texts where no token can span the cut: the parts' tokens are the text's, and cost less.

Merging a long text takes a queue of all its neighbours: SentencePiece is a quarter faster on parts
of some hundred characters, and needs some 100 bytes of memory per character that it encodes at
once, so that a document of 100 MB on one line would take many gigabytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

SPACE = "\u2581"
LONG_CHARACTERS = 200_000
"""Texts beyond this are cut whatever they are."""

_FORCED_CHUNK = 60_000  # where a long text without any place to cut is cut
_SEARCH_CHARACTERS = 20_000  # how far a place to cut is looked for
_BATCH_CHARACTERS = 4_000_000  # characters given to a tokenizer at once: bounds memory


class TextSplitter:
    """Knows which pairs of characters occur next to each other inside a piece of the vocabulary.

    A merge never joins two characters whose pair is in no piece, so the text may be cut between
    them: every BPE encoding of the parts, joined, is the encoding of the whole. So is unigram's but
    for which of two equally good ones is chosen.
    `joins_unknown`: neighbours outside the vocabulary become one token together (SentencePiece
    without byte fallback), so that no cut comes after such a one.
    """

    def __init__(self, pieces: Sequence[str], joins_unknown: bool = False) -> None:
        self._pairs: set[str] = set()
        for piece in pieces:
            for pair in map("".join, itertools.pairwise(piece)):
                # A text may hold the space as well as the character that stands for it in pieces.
                choices = [SPACE + " " if character == SPACE else character for character in pair]
                self._pairs.update(map("".join, itertools.product(*choices)))
        self._known: set[str] | None = set("".join(pieces)) | {" "} if joins_unknown else None

    def split(self, text: str, characters: int, at_spaces_only: bool = False) -> list[str]:
        """Parts of about so many characters; joined, they are the text.

        With `at_spaces_only` they are joined by single spaces. Where there is no place to cut for
        20,000 characters, the part goes on; with more than LONG_CHARACTERS left it is cut at 60,000
        all the same (not with `at_spaces_only`), and its tokens still decode to the text.
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
            # A single space between two characters becomes the next part's own prefix.
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
    """The ids of each text, from those of the parts that `cut` makes of it."""
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
