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
from mmbert_prep.tokenization.encoders import Encoder, SentencePieceEncoder
from mmbert_prep.tokenization.text_splitter import encode_in_chunks

VERIFY_DOCUMENTS = 200
CHECK_EVERY = 1000
# Proving 200 documents pays from about twice their size on: 1 MB is that for common web text.
MIN_LANGUAGE_BYTES = 1_000_000


def fast_encoder_installed() -> bool:
    """Whether kitoken can be imported."""
    return importlib.util.find_spec("kitoken") is not None


class FastEncoder:
    """Encodes batches with kitoken where that is verified, with the reference everywhere else.

    `expected_bytes` says how much text of a language this worker will see, where that is known;
    of other languages, the worker first sees MIN_LANGUAGE_BYTES.
    """

    def __init__(
        self, reference: SentencePieceEncoder, model: bytes, expected_bytes: dict[str, int]
    ) -> None:
        import kitoken

        self.reference = reference
        self.checked = 0
        """Documents on which the two were compared."""
        self.enabled = True
        """Whether all comparisons made before use were equal."""
        self._fast: Any = kitoken.Kitoken.from_sentencepiece(model)
        self._expected = expected_bytes
        self._seen: dict[str, int] = {}
        self._verified: dict[str, int] = {}
        self._since_check = 0
        self._verify_adversarial()

    def _verify_adversarial(self) -> None:
        texts = list(ADVERSARIAL_TEXTS)
        fast = encode_in_chunks(texts, self.reference.split_long, self._encode)
        pairs = zip(fast, self.reference.encode(texts), strict=True)
        self.enabled = all(np.array_equal(fast, exact) for fast, exact in pairs)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        # False: a literal "<eos>" in a text is text.
        encode = self._fast.encode
        return [_array(encode(text, False)) for text in texts]

    def encode(self, texts: Sequence[str], languages: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text. Raises UserError when a spot check finds a difference."""
        modes = [
            self._mode(text, language) for text, language in zip(texts, languages, strict=True)
        ]
        # kitoken, which looks for words first, gains nothing from short parts.
        exact = _EncodedSubset(texts, [mode != "fast" for mode in modes], self.reference.encode)
        fast = _EncodedSubset(
            texts,
            [mode != "reference" for mode in modes],
            lambda chosen: encode_in_chunks(chosen, self.reference.split_long, self._encode),
        )
        ids: list[np.ndarray] = []
        for index, mode in enumerate(modes):
            if mode == "fast":
                ids.append(fast[index])
                continue
            ids.append(exact[index])
            if mode != "reference":
                self._compare(mode, exact[index], fast[index], texts[index], languages[index])
        # What follows the last proof in this very batch was encoded by it already.
        return ids if self.enabled or "fast" not in modes else self.reference.encode(texts)

    def _mode(self, text: str, language: str) -> str:
        """How a text is encoded: reference, fast, or both ways (verify, check)."""
        if not self.enabled:
            return "reference"
        if self._verified.get(language, 0) >= VERIFY_DOCUMENTS:
            self._since_check += 1
            if self._since_check >= CHECK_EVERY:
                self._since_check = 0
                return "check"
            return "fast"
        seen = self._seen[language] = self._seen.get(language, 0) + len(text)
        if max(seen, self._expected.get(language, 0)) < MIN_LANGUAGE_BYTES:
            return "reference"
        self._verified[language] = self._verified.get(language, 0) + 1
        return "verify"

    def _compare(
        self, mode: str, exact: np.ndarray, fast: np.ndarray, text: str, language: str
    ) -> None:
        self.checked += 1
        if np.array_equal(exact, fast):
            return
        if mode == "verify":
            # Nothing of this language was encoded by it yet; from here on nothing at all is.
            self.enabled = False
            return
        raise UserError(
            f"kitoken and SentencePiece give different ids for a {language} text: {text[:200]!r}",
            remedy="run again with --fast-encoder none: everything is encoded by SentencePiece, "
            "and what kitoken encoded is not used",
        )


def _array(ids: list[int]) -> np.ndarray:
    """int32 of a list; packing it takes half as long as np.array."""
    return np.frombuffer(struct.pack(f"{len(ids)}i", *ids), dtype=np.int32)


class ReferenceEncoder:
    """An encoder for whom all languages are the same."""

    def __init__(self, reference: Encoder) -> None:
        self.reference = reference

    def encode(self, texts: Sequence[str], languages: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text."""
        return self.reference.encode(texts)


BatchEncoder = ReferenceEncoder | FastEncoder


class _EncodedSubset:
    """The encodings of some of the texts, by the index among all."""

    def __init__(self, texts: Sequence[str], chosen: Sequence[bool], encode: Any) -> None:
        indices = [index for index, wanted in enumerate(chosen) if wanted]
        arrays = encode([texts[index] for index in indices]) if indices else []
        self._arrays = dict(zip(indices, arrays, strict=True))

    def __getitem__(self, index: int) -> np.ndarray:
        return self._arrays[index]
