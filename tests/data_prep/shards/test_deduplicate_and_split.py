"""Duplicates and caps on handmade intermediate shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmbert_prep.shards import deduplicate_and_split
from mmbert_prep.shards.deduplicate_and_split import DocumentStatus, LanguageSections, select
from mmbert_prep.shards.intermediate import DOCUMENT_DTYPE, IntermediateWriter
from tests.support.texts import settings


def _language(folder: Path, facts: np.ndarray, units: int = 3) -> LanguageSections:
    """Write `facts` as the documents of several work units."""
    sections = []
    for number, part in enumerate(np.array_split(facts, units)):
        writer = IntermediateWriter(folder, f"unit-{number}", np.dtype(np.uint16))
        tokens = np.full(int(part["tokens"].sum()), 7, dtype=np.uint16)
        writer.add("eng_Latn", tokens, part)
        (section,) = writer.finish().sections
        sections.append((f"unit-{number}", section))
    return LanguageSections("eng_Latn", tuple(sections))


def _sections(texts: Sequence[int], tokens: int = 10) -> np.ndarray:
    """Make records of documents; equal numbers are equal texts."""
    texts = np.asarray(texts, dtype=np.uint64)
    facts = np.zeros(len(texts), dtype=DOCUMENT_DTYPE)
    # Texts whose hashes differ in only one half are not duplicates.
    facts["high"] = texts // np.uint64(8) * np.uint64(0x9E3779B97F4A7C15)
    facts["low"] = texts % np.uint64(8) * np.uint64(0xBF58476D1CE4E5B9)
    facts["tokens"], facts["bytes"] = tokens, 40
    return facts


def _fates(folder: Path, facts: np.ndarray, **changes: object) -> list[DocumentStatus]:
    language = _language(folder, facts)
    chosen = select(language, folder, settings("in", folder, heldout_share=0.0, **changes))
    return [DocumentStatus(status) for status in chosen.statuses.tolist()]


@pytest.mark.parametrize("at_once", [16_000_000, 1000, 3])
def test_the_first_of_equal_texts_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """In one pass or hundreds of passes, with many duplicates and other texts."""
    monkeypatch.setattr(deduplicate_and_split, "_HASHES_PER_PASS", at_once)
    texts = np.random.default_rng(1).integers(0, 60, 1200)
    texts[100:] = np.where(
        np.arange(1100) % 2, 61, texts[100:]
    )  # hundreds of duplicates of one text
    seen: set[int] = set()
    expected = []
    for text in texts.tolist():
        expected.append(DocumentStatus.DUPLICATE if text in seen else DocumentStatus.TRAIN)
        seen.add(text)
    assert _fates(tmp_path, _sections(texts)) == expected


@pytest.mark.parametrize("most", [9, 10, 11, 29, 30, 31, 49, 50, 51])
def test_a_cap_keeps_what_fits_and_what_fills_it_exactly(tmp_path: Path, most: int) -> None:
    """Five documents of ten tokens, ordered by hash; three hashes share a bin."""
    facts = _sections(range(5))
    facts["low"] = np.array([0xFFFF << 48, 5 << 48 | 2, 7, 5 << 48 | 1, 5 << 48 | 3], dtype="u8")
    order = [2, 3, 1, 4, 0]
    kept = set(order[: max(1, most // 10)])  # one is always kept
    statuses = _fates(tmp_path, facts, maximum_tokens_per_language=most)
    assert statuses == [
        DocumentStatus.TRAIN if place in kept else DocumentStatus.OVER_CAP for place in range(5)
    ]
