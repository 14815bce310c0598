"""Cut very long texts where no token can span the cut, so that encoding the parts is exact.

SentencePiece and Hugging Face need some 100 bytes of memory per character of the text they encode
at once; a document of 100 MB on one line would take many gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable

SPACE = "\u2581"

_PART = 60_000  # characters encoded at once
_SEARCH = 20_000  # how far beyond them a place to cut is looked for


class Cutter:
    """Knows which pairs of characters occur next to each other inside a piece of the vocabulary.

    A merge never joins two characters whose pair is in no piece, so the text may be cut between
    them: every BPE (or unigram) encoding of the parts, joined, is the encoding of the whole.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pairs: set[str] = set()
        for piece in pieces:
            for index in range(len(piece) - 1):
                self._pairs.add(piece[index : index + 2])

    def cut(self, text: str, only_at_spaces: bool = False) -> list[str]:
        """The parts, which joined are the text (with `only_at_spaces`: joined by single spaces).

        A part without any such place within 20,000 characters is cut where it is full; its
        tokens still decode to the text. With `only_at_spaces` it is not cut.
        """
        parts: list[str] = []
        start = 0
        while len(text) - start > _PART * 3 // 2:
            place = self._place(text, start + _PART, only_at_spaces)
            if place is None:
                if only_at_spaces:
                    break
                place = start + _PART
            parts.append(text[start:place])
            start = place + 1 if only_at_spaces else place
        parts.append(text[start:])
        return parts

    def _place(self, text: str, begin: int, only_at_spaces: bool) -> int | None:
        for place in range(begin, min(begin + _SEARCH, len(text) - 1)):
            pair = text[place - 1 : place + 1].replace(" ", SPACE)
            if pair in self._pairs:
                continue
            if not only_at_spaces:
                return place
            # A single space between two characters becomes the next part's own prefix.
            if text[place] == " " and pair[0] != SPACE and text[place + 1] not in (" ", SPACE):
                return place
        return None
