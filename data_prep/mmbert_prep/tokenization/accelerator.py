"""kitoken beside SentencePiece: used for a language only after its ids were found identical there.

SentencePiece stays the reference. kitoken is two to three times as fast and has one maintainer, so
nothing is taken on trust: it must agree on a fixed adversarial set, then on 200 documents of every
language that it is used for, in each worker; afterwards on every 1,000th document.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmbert.errors import UserError
from mmbert_prep.tokenization.adversarial import ADVERSARIAL_TEXTS
from mmbert_prep.tokenization.cutting import encode_in_parts
from mmbert_prep.tokenization.encoders import Encoder, SentencePieceEncoder

PROVING_DOCUMENTS = 200
CHECK_EVERY = 1000
# Proving 200 documents pays from about twice their size on: 1 MB is that for common web text.
WORTHWHILE_BYTES = 1_000_000


def accelerator_installed() -> bool:
    """Whether kitoken can be imported."""
    return importlib.util.find_spec("kitoken") is not None


class AcceleratedEncoder:
    """Encodes batches with kitoken where that is proven, with the reference everywhere else.

    `expected_bytes` says how much text of a language this worker will see, where that is known;
    of other languages, the worker first sees WORTHWHILE_BYTES.
    """

    def __init__(
        self, reference: SentencePieceEncoder, model: bytes, expected_bytes: dict[str, int]
    ) -> None:
        import kitoken

        self.reference = reference
        self.checked = 0
        """Documents on which the two were compared."""
        self.trusted = True
        """Whether all comparisons made before use were equal."""
        self._fast: Any = kitoken.Kitoken.from_sentencepiece(model)
        self._expected = expected_bytes
        self._seen: dict[str, int] = {}
        self._proven: dict[str, int] = {}
        self._since_check = 0
        self._require_adversarial()

    def _require_adversarial(self) -> None:
        texts = list(ADVERSARIAL_TEXTS)
        fast = encode_in_parts(texts, self.reference.cut_long, self._encode)
        pairs = zip(fast, self.reference.encode(texts), strict=True)
        self.trusted = all(np.array_equal(fast, exact) for fast, exact in pairs)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        # False: a literal "<eos>" in a text is text.
        encode = self._fast.encode
        return [_array(encode(text, False)) for text in texts]

    def encode(self, texts: Sequence[str], languages: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text. Raises UserError when a spot check finds a difference."""
        ways = [self._way(text, language) for text, language in zip(texts, languages, strict=True)]
        # kitoken, which looks for words first, gains nothing from short parts.
        exact = _Selected(texts, [way != "fast" for way in ways], self.reference.encode)
        fast = _Selected(
            texts,
            [way != "reference" for way in ways],
            lambda chosen: encode_in_parts(chosen, self.reference.cut_long, self._encode),
        )
        ids: list[np.ndarray] = []
        for index, way in enumerate(ways):
            if way == "fast":
                ids.append(fast[index])
                continue
            ids.append(exact[index])
            if way != "reference":
                self._compare(way, exact[index], fast[index], texts[index], languages[index])
        # What follows the last proof in this very batch was encoded by it already.
        return ids if self.trusted or "fast" not in ways else self.reference.encode(texts)

    def _way(self, text: str, language: str) -> str:
        """How a text is encoded: reference, fast, or both ways (prove, check)."""
        if not self.trusted:
            return "reference"
        if self._proven.get(language, 0) >= PROVING_DOCUMENTS:
            self._since_check += 1
            if self._since_check >= CHECK_EVERY:
                self._since_check = 0
                return "check"
            return "fast"
        seen = self._seen[language] = self._seen.get(language, 0) + len(text)
        if max(seen, self._expected.get(language, 0)) < WORTHWHILE_BYTES:
            return "reference"
        self._proven[language] = self._proven.get(language, 0) + 1
        return "prove"

    def _compare(
        self, way: str, exact: np.ndarray, fast: np.ndarray, text: str, language: str
    ) -> None:
        self.checked += 1
        if np.array_equal(exact, fast):
            return
        if way == "prove":
            # Nothing of this language was encoded by it yet; from here on nothing at all is.
            self.trusted = False
            return
        raise UserError(
            f"kitoken and SentencePiece give different ids for a {language} text: {text[:200]!r}",
            remedy="run again with --accelerator none: everything is encoded by SentencePiece, and "
            "what kitoken encoded is not used",
        )


def _array(ids: list[int]) -> np.ndarray:
    """int32 of a list; packing it takes half as long as np.array."""
    return np.frombuffer(struct.pack(f"{len(ids)}i", *ids), dtype=np.int32)


class PlainEncoder:
    """An encoder for whom all languages are the same."""

    def __init__(self, reference: Encoder) -> None:
        self.reference = reference

    def encode(self, texts: Sequence[str], languages: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text."""
        return self.reference.encode(texts)


BatchEncoder = PlainEncoder | AcceleratedEncoder


class _Selected:
    """The encodings of some of the texts, by the index among all."""

    def __init__(self, texts: Sequence[str], chosen: Sequence[bool], encode: Any) -> None:
        indices = [index for index, wanted in enumerate(chosen) if wanted]
        arrays = encode([texts[index] for index in indices]) if indices else []
        self._arrays = dict(zip(indices, arrays, strict=True))

    def __getitem__(self, index: int) -> np.ndarray:
        return self._arrays[index]
