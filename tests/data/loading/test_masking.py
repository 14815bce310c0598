"""Masks: the exact number, 80/10/10, never a special token, uniform random ids, whole words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.loading.masking import MAX_WORD_TOKENS, Masker, read_word_starts
from mmbert.data.shards.tokenizer_description import SpecialIds, TokenizerDescription
from mmbert.errors import UserError
from mmbert.recipe import MaskingSettings

VOCABULARY = 60
# special ids are not contiguous, as in some tokenizers
SPECIAL = SpecialIds(pad=0, end=1, begin=2, unknown=30, mask=59)
TOKENIZER = TokenizerDescription(
    kind="huggingface", vocabulary_size=VOCABULARY, fingerprint="x", special_ids=SPECIAL
)
KNOWN_POSITIONS = [4, 6, 13, 14, 16, 25, 28, 32, 34, 35, 36]
KNOWN_IDS = [50, 59, 59, 14, 59, 59, 28, 59, 17, 59, 59]
TEXT_IDS = np.setdiff1d(np.arange(VOCABULARY), SPECIAL.all())


def _row(length: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, VOCABULARY, length).astype(np.int32)


@given(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=300),
    st.floats(0, 1),
    st.integers(0, 2**62),
    st.booleans(),
)
@settings(deadline=None)
def test_exact_number_and_never_a_special_token(
    ids: list[int], ratio: float, row: int, whole_word: bool
) -> None:
    starts = np.arange(VOCABULARY) % 3 == 0
    masker = Masker(TOKENIZER, MaskingSettings(), 21, starts if whole_word else None)
    before = np.array(ids, dtype=np.int32)
    masked = masker.mask(before, ratio, row)
    eligible = np.flatnonzero(np.isin(before, TEXT_IDS))
    assert len(masked.positions) == round(ratio * len(eligible))
    assert (np.diff(masked.positions) > 0).all()
    assert np.isin(masked.positions, eligible).all()
    np.testing.assert_array_equal(masked.labels, before[masked.positions])
    elsewhere = np.ones(len(before), dtype=bool)
    elsewhere[masked.positions] = False
    np.testing.assert_array_equal(masked.input_ids[elsewhere], before[elsewhere])
    np.testing.assert_array_equal(before, ids)  # the row given is left alone
    special = np.isin(masked.input_ids[masked.positions], [0, 1, 2, 30])
    assert not special.any()


def test_same_row_same_mask_and_other_rows_other_masks() -> None:
    before = _row(2000)
    first = Masker(TOKENIZER, MaskingSettings(), 21).mask(before, 0.3, 7)
    again = Masker(TOKENIZER, MaskingSettings(), 21).mask(before, 0.3, 7)
    np.testing.assert_array_equal(first.input_ids, again.input_ids)
    for seed, row in ((21, 8), (22, 7)):
        other = Masker(TOKENIZER, MaskingSettings(), seed).mask(before, 0.3, row)
        shared = len(np.intersect1d(first.positions, other.positions)) / len(first.positions)
        assert 0.2 < shared < 0.4  # 0.3 by chance


def test_known_masks() -> None:
    # Masks must never change between versions or machines, or resumed runs would differ.
    masked = Masker(TOKENIZER, MaskingSettings(), 21).mask(_row_of_ids(), 0.3, 5)
    assert masked.positions.tolist() == KNOWN_POSITIONS
    assert masked.input_ids[masked.positions].tolist() == KNOWN_IDS


def _row_of_ids() -> np.ndarray:
    return (np.arange(40) % VOCABULARY).astype(np.int32)


@pytest.mark.parametrize(
    "shares",
    [
        MaskingSettings(),
        MaskingSettings(mask=1.0, random=0.0),
        MaskingSettings(mask=0.5, random=0.5),
    ],
)
def test_shares_of_mask_random_and_unchanged(shares: MaskingSettings) -> None:
    masker = Masker(TOKENIZER, shares, 3)
    before = _row(50_000)
    ids, labels = [], []
    for row in range(8):
        masked = masker.mask(before, 0.3, row)
        ids.append(masked.input_ids[masked.positions])
        labels.append(masked.labels)
    replaced, label = np.concatenate(ids), np.concatenate(labels)
    count = len(replaced)
    is_mask = replaced == SPECIAL.mask
    unchanged = replaced == label
    slack = 5 / np.sqrt(count)
    by_chance = shares.random / len(TEXT_IDS)  # a random id may be the token itself
    assert is_mask.mean() == pytest.approx(shares.mask, abs=slack)
    rest = 1 - shares.mask - shares.random
    assert unchanged.mean() == pytest.approx(rest + by_chance, abs=slack)
    if shares.random:
        drawn = np.bincount(replaced[~is_mask & ~unchanged], minlength=VOCABULARY)
        assert drawn[list(SPECIAL.all())].sum() == 0
        expected = drawn.sum() / len(TEXT_IDS)
        statistic = ((drawn[TEXT_IDS] - expected) ** 2 / expected).sum()
        assert statistic < 110  # 54 degrees of freedom
    else:
        assert (is_mask | unchanged).all()


def test_every_position_is_chosen_equally_often() -> None:
    masker = Masker(TOKENIZER, MaskingSettings(), 3)
    before = np.full(101, 10, dtype=np.int32)
    counts = np.zeros(101)
    for row in range(4000):
        counts[masker.mask(before, 0.3, row).positions] += 1
    expected = 4000 * round(0.3 * 101) / 101
    # without replacement within a row: variance of each is below the binomial's
    assert ((counts - expected) ** 2 / expected).sum() < 150


def test_whole_words_are_masked_together() -> None:
    """Of words of three tokens, all or none are masked, except for the last word chosen."""
    starts = np.zeros(VOCABULARY, dtype=bool)
    starts[10] = True
    masker = Masker(TOKENIZER, MaskingSettings(whole_word=True), 21, starts)
    before = np.tile(np.array([10, 11, 12], dtype=np.int32), 200)
    chosen = np.zeros(200)
    for row in range(200):
        masked = masker.mask(before, 0.3, row)
        assert len(masked.positions) == 180
        many = np.bincount(masked.positions // 3, minlength=200)
        assert set(np.unique(many)) <= {0, 1, 2, 3}
        assert np.isin(many, [1, 2]).sum() <= 1
        chosen += many > 0
    assert chosen.min() > 30
    assert chosen.max() < 95  # 60 expected


def test_words_end_with_their_document() -> None:
    """Each document is one word of two tokens."""
    starts = np.zeros(VOCABULARY, dtype=bool)
    starts[10] = True
    masker = Masker(TOKENIZER, MaskingSettings(whole_word=True), 21, starts)
    before = np.tile(np.array([SPECIAL.begin, 11, 12, SPECIAL.end], dtype=np.int32), 150)
    neighbors = 0
    for row in range(100):
        documents = np.bincount(masker.mask(before, 0.3, row).positions // 4, minlength=150)
        assert np.isin(documents, [1]).sum() <= 1
        chosen = np.flatnonzero(documents)
        neighbors += int((np.diff(chosen) == 1).sum())
    # 45 of 150 documents: independent ones have 0.3 * 0.3 * 149 neighbors a row.
    assert 0.8 < neighbors / (100 * 0.09 * 149) < 1.2


def test_words_without_spaces_are_cut() -> None:
    starts = np.zeros(VOCABULARY, dtype=bool)
    masker = Masker(TOKENIZER, MaskingSettings(whole_word=True), 21, starts)
    before = np.full(800, 11, dtype=np.int32)
    masked = masker.mask(before, 0.3, 1)
    many = np.bincount(masked.positions // MAX_WORD_TOKENS, minlength=100)
    assert np.isin(many, [0, MAX_WORD_TOKENS]).sum() >= 99
    assert len(masked.positions) == 240


def test_word_starts_come_from_the_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": {"▁a": 5, "b": 6, "\n": 7, "Ġc": 8, "x▁": 9}}}))
    assert np.flatnonzero(read_word_starts(tmp_path, 10)).tolist() == [5, 7, 8]
    path.write_text(json.dumps({"model": {"vocab": [["un", 0.0], ["▁d", -1.0]]}}))
    assert np.flatnonzero(read_word_starts(tmp_path, 10)).tolist() == [1]
    path.write_text(json.dumps({"model": {"vocab": {"play": 0, "##ing": 1}}}))
    assert np.flatnonzero(read_word_starts(tmp_path, 2)).tolist() == [0]
    path.write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json has no vocabulary"):
        read_word_starts(tmp_path, 10)
    with pytest.raises(UserError, match="needs"):
        read_word_starts(tmp_path / "elsewhere", 10)
