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

_FULL = 60_000  # where a long text without any place to cut is cut
_SEARCH = 20_000  # how far a place to cut is looked for
_AT_ONCE = 4_000_000  # characters given to a tokenizer at once: bounds memory


class Cutter:
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

    def cut(self, text: str, characters: int, only_at_spaces: bool = False) -> list[str]:
        """Parts of about so many characters; joined, they are the text.

        With `only_at_spaces` they are joined by single spaces. Where there is no place to cut for
        20,000 characters, the part goes on; with more than LONG_CHARACTERS left it is cut at 60,000
        all the same (not with `only_at_spaces`), and its tokens still decode to the text.
        """
        parts: list[str] = []
        start = 0
        while len(text) - start > characters * 3 // 2:
            place = self._place(text, start + characters, only_at_spaces)
            if place is None:
                if only_at_spaces or len(text) - start <= LONG_CHARACTERS:
                    break
                place = start + _FULL
            parts.append(text[start:place])
            start = place + 1 if only_at_spaces else place
        parts.append(text[start:])
        return parts

    def _place(self, text: str, begin: int, only_at_spaces: bool) -> int | None:
        pairs, known = self._pairs, self._known
        for place in range(begin, min(begin + _SEARCH, len(text) - 1)):
            pair = text[place - 1 : place + 1]
            if pair in pairs or (known is not None and pair[0] not in known):
                continue
            if not only_at_spaces:
                return place
            # A single space between two characters becomes the next part's own prefix.
            if (
                pair[1] == " "
                and pair[0] not in (" ", SPACE)
                and text[place + 1] not in " " + SPACE
            ):
                return place
        return None


def encode_in_parts(
    texts: Iterable[str],
    cut: Callable[[str], list[str]],
    encode: Callable[[list[str]], list[np.ndarray]],
) -> list[np.ndarray]:
    """The ids of each text, from those of the parts that `cut` makes of it."""
    parts: list[str] = []
    counts: list[int] = []
    for text in texts:
        own = cut(text)
        parts += own
        counts.append(len(own))
    arrays = iter([array for group in _groups(parts) for array in encode(group)])
    return [
        next(arrays) if count == 1 else np.concatenate(list(itertools.islice(arrays, count)))
        for count in counts
    ]


def _groups(parts: list[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for part in parts:
        if group and size + len(part) > _AT_ONCE:
            yield group
            group, size = [], 0
        group.append(part)
        size += len(part)
    if group:
        yield group
