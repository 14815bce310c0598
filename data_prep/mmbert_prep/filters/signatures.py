"""MinHash signatures of documents, and the similarity from which on two are near-duplicates."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from mmbert.data.shards.manifest import NearDuplicates
from mmbert.errors import PackageError

# A shingle. In all scripts, unrelated documents share few sequences of this length, also in those
# without blanks between words; of five characters they share a tenth in many languages.
_CHARACTERS = 9
_SHINGLES = f"{_CHARACTERS} characters of the NFKC lower-case text, blanks collapsed"
# Version of rensa's signatures. Shards name it; another version would mix two kinds of signatures.
_ALGORITHM_VERSION = 2
_SEED = 1

# Probabilities of finding a pair whose similarity is the threshold exactly.
_SHARE_A_BAND, _MATCH_ENOUGH = 0.98, 0.95

_PADDING = "\0"
_WINDOWS_AT_ONCE = 1 << 17  # stays in a processor's cache
_DOCUMENTS_AT_ONCE = 1024  # rensa returns lists
_CHARACTERS_AT_ONCE = 4_000_000
_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def plan_near_duplicates(threshold: float, permutations: int) -> NearDuplicates:
    """Choose bands, rows and matching values, so that pairs at the threshold are found.

    Of 128 values, two documents of similarity s agree in 128 s on average, with a standard
    deviation of the square root of 128 s (1 - s). `matches` is the 5% quantile at the threshold:
    with the mean itself, half of the pairs at the threshold would be missed. They share a band with
    probability 1 - (1 - s^rows)^bands; the most rows with 98% give the fewest pairs to compare.
    """
    matches = permutations
    if threshold < 1:
        deviation = math.sqrt(permutations * threshold * (1 - threshold))
        matches = int(NormalDist(permutations * threshold, deviation).inv_cdf(1 - _MATCH_ENOUGH))
    rows = max(
        rows
        for rows in range(1, permutations + 1)
        if 1 - (1 - threshold**rows) ** (permutations // rows) >= _SHARE_A_BAND
    )
    return NearDuplicates(
        threshold=threshold,
        permutations=permutations,
        bands=permutations // rows,
        rows=rows,
        matches=max(1, matches),
        shingles=_SHINGLES,
        algorithm=f"rensa R-MinHash {_ALGORITHM_VERSION}, 16 bits, seed {_SEED}",
    )


class Signer:
    """Computes signatures. Raises PackageError if rensa is missing or of another version."""

    def __init__(self, permutations: int) -> None:
        self._permutations = permutations
        self._hasher = open_hasher()
        _start_one_thread(self._hasher)

    def sign(self, texts: Sequence[str]) -> np.ndarray:
        """Return the signature of each text, uint16[n, permutations].

        Two texts agree in a value with a probability of the Jaccard similarity of their shingles,
        plus 2^-16: the lower halves of rensa's values are stored.
        """
        parts = [np.empty((0, self._permutations), dtype=np.uint16)]
        for group in _groups(texts):
            hashes, offsets = _shingle_hashes(group)
            digests = self._hasher.digest_matrix_from_flat_token_hashes(
                hashes, offsets, self._permutations, _SEED
            )
            rows = np.array(digests.to_rows(), dtype=np.uint32)
            parts.append((rows & 0xFFFF).astype(np.uint16))
        return np.concatenate(parts)


def open_hasher() -> Any:
    """Return rensa's class of signatures. Raises PackageError if it cannot be used."""
    remedy = "pip install 'mmbert-train[near-duplicates]', or leave --near-duplicates out"
    try:
        from rensa import RMinHash
    except ImportError:
        raise PackageError("--near-duplicates: rensa is not installed", remedy=remedy) from None
    if getattr(RMinHash, "ALGORITHM_VERSION", None) != _ALGORITHM_VERSION:
        raise PackageError(
            "--near-duplicates: the installed rensa computes other signatures than version "
            f"{_ALGORITHM_VERSION}, which shards name",
            remedy=remedy,
        )
    return RMinHash


def _start_one_thread(hasher: Any) -> None:
    """Start rensa's pool with one thread, as workers run in parallel; it lasts as the process."""
    name = "RAYON_NUM_THREADS"
    former = os.environ.get(name)
    os.environ[name] = "1"
    try:
        count = _DOCUMENTS_AT_ONCE
        hasher.digest_matrix_from_flat_token_hashes(
            np.arange(count, dtype=np.uint64), np.arange(count + 1, dtype=np.uint64), 1, _SEED
        )
    finally:
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former


def normalize(text: str) -> str:
    """Return what is compared of a text: no case, no widths, no layout."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def shingles(text: str) -> Iterator[str]:
    """Yield the sequences of characters of which a document's signature is made.

    A text that is shorter than a sequence is one by itself.
    """
    text = normalize(text)
    for start in range(max(1, len(text) - _CHARACTERS + 1)):
        yield text[start : start + _CHARACTERS]


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield consecutive texts that are hashed at once; a long one alone, as its hashes are many."""
    start = characters = 0
    for number, text in enumerate(texts):
        full = number - start == _DOCUMENTS_AT_ONCE
        if number > start and (full or characters + len(text) > _CHARACTERS_AT_ONCE):
            yield texts[start:number]
            start, characters = number, 0
        characters += len(text)
    if texts:
        yield texts[start:]


def _shingle_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the shingles of all texts, uint64, and where those of each text begin.

    uint64[n + 1]. A hundred times as fast as a hash for each of `shingles`.
    """
    padded = [normalize(text).ljust(_CHARACTERS, _PADDING) for text in texts]
    hashes = _window_hashes("".join(padded))
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    ends = np.cumsum(lengths)[:-1]
    if len(ends):  # windows across the border of two texts
        inside = np.ones(len(hashes), dtype=bool)
        inside[ends[:, None] - np.arange(1, _CHARACTERS)] = False
        hashes = hashes[inside]
    offsets = np.cumsum(np.append(0, lengths - (_CHARACTERS - 1))).astype(np.uint64)
    return hashes, offsets


def _window_hashes(text: str) -> np.ndarray:
    """Return a hash of each window of nine characters, uint64."""
    hashes = np.empty(len(text) - _CHARACTERS + 1, dtype=np.uint64)
    powers = {n: np.uint64(pow(_MULTIPLIER, n, 1 << 64)) for n in (1, 2, 4)}
    for start in range(0, len(hashes), _WINDOWS_AT_ONCE):
        part = text[start : start + _WINDOWS_AT_ONCE + _CHARACTERS - 1]
        points = np.frombuffer(part.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
        sums = points
        for width in (1, 2, 4):  # a polynomial over 2, 4 and 8 characters
            sums = sums[:-width] * powers[width] + sums[width:]
        sums = sums[:-1] * powers[1] + points[_CHARACTERS - 1 :]
        sums ^= sums >> np.uint64(32)
        sums *= np.uint64(_MULTIPLIER)
        sums ^= sums >> np.uint64(29)
        hashes[start : start + _WINDOWS_AT_ONCE] = sums
    return hashes
