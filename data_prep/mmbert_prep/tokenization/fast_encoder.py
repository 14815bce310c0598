"""Encoding with kitoken, verified against SentencePiece.

kitoken is two to three times as fast as SentencePiece, the reference, but has only one maintainer.
Each worker compares the ids on the adversarial texts, on 200 documents of each language before
using kitoken for that language, and on every 1,000th document after that.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmbert.errors import TokenizerError
from mmbert_prep.tokenization.adversarial import ADVERSARIAL_TEXTS
from mmbert_prep.tokenization.encoders import Encoder, SentencePieceEncoder
from mmbert_prep.tokenization.hashes_only import HashesOnly
from mmbert_prep.tokenization.text_splitter import encode_in_chunks

VERIFY_DOCUMENTS = 200
CHECK_EVERY = 1000
# Verification pays off from about twice the size of 200 documents, 1 MB of common web text.
MIN_LANGUAGE_BYTES = 1_000_000


def fast_encoder_installed() -> bool:
    """Return whether kitoken can be imported."""
    return importlib.util.find_spec("kitoken") is not None


class FastEncoder:
    """Encodes verified languages with kitoken and all others with the reference.

    `expected_bytes`: expected text of this worker per language. Verification of a language starts
    once its expected or encountered text reaches MIN_LANGUAGE_BYTES.
    """

    def __init__(
        self, reference: SentencePieceEncoder, model: bytes, expected_bytes: dict[str, int]
    ) -> None:
        import kitoken

        self.reference = reference
        self.checked = 0
        """Number of documents encoded by both and compared."""
        self.enabled = True
        """Whether kitoken may be used; False after a mismatch during verification."""
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
        # False encodes special tokens in the text as text.
        encode = self._fast.encode
        return [_array(encode(text, False)) for text in texts]

    def encode(self, texts: Sequence[str], languages: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32. Raises TokenizerError if a spot check fails."""
        modes = [
            self._mode(text, language) for text, language in zip(texts, languages, strict=True)
        ]
        # Short chunks would not be faster, because kitoken pre-tokenizes into words.
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
        # If a verification in this batch failed, encode its kitoken texts with the reference.
        return ids if self.enabled or "fast" not in modes else self.reference.encode(texts)

    def _mode(self, text: str, language: str) -> str:
        """Return the mode of a text: "reference", "fast", or both encoders ("verify", "check")."""
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
            # No text of this language was encoded with kitoken yet; disable it from now on.
            self.enabled = False
            return
        raise TokenizerError(
            f"kitoken and SentencePiece give different ids for a {language} text: {text[:200]!r}",
            remedy="run again with --fast-encoder none, which encodes all with SentencePiece and "
            "discards the results of kitoken",
        )


def _array(ids: list[int]) -> np.ndarray:
    """Convert a list to int32; struct.pack takes half as long as np.array."""
    return np.frombuffer(struct.pack(f"{len(ids)}i", *ids), dtype=np.int32)


class ReferenceEncoder:
    """Encodes all batches with the reference encoder."""

    def __init__(self, reference: Encoder) -> None:
        self.reference = reference

    def encode(self, texts: Sequence[str], languages: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32."""
        return self.reference.encode(texts)


BatchEncoder = ReferenceEncoder | FastEncoder | HashesOnly


class _EncodedSubset:
    """Encodings of a subset of texts, by index among all texts."""

    def __init__(self, texts: Sequence[str], chosen: Sequence[bool], encode: Any) -> None:
        indices = [index for index, wanted in enumerate(chosen) if wanted]
        arrays = encode([texts[index] for index in indices]) if indices else []
        self._arrays = dict(zip(indices, arrays, strict=True))

    def __getitem__(self, index: int) -> np.ndarray:
        return self._arrays[index]
