"""Masked spans: exact number, within documents, geometric lengths, every token equally often."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.loading.masking import Masker
from mmbert.data.loading.masks.runs import span_limits
from mmbert.data.shards.tokenizer_description import SpecialIds, TokenizerDescription
from mmbert.errors import UserError
from mmbert.recipe import MaskingSettings, MaskRatioRange, SpanSettings, load_recipe

VOCABULARY = 60
SPECIAL = SpecialIds(pad=0, end=1, begin=2, unknown=30, mask=59)
TOKENIZER = TokenizerDescription(
    kind="huggingface", vocabulary_size=VOCABULARY, fingerprint="x", special_ids=SPECIAL
)
SPANBERT = SpanSettings(mean=3.8, limit=10)
KNOWN_POSITIONS = [17, 18, 19, 20, 31, 32, 33, 34, 35, 36, 38]


def _masker(mean: float, limit: int, seed: int = 21) -> Masker:
    return Masker(TOKENIZER, MaskingSettings(spans=SpanSettings(mean=mean, limit=limit)), seed)


def _runs(positions: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs of consecutive positions."""
    cuts = np.flatnonzero(np.diff(positions) != 1) + 1
    return np.diff(np.concatenate(([0], cuts, [len(positions)])))


def _probabilities(spans: SpanSettings) -> np.ndarray:
    """Return P(l) ∝ q ** (l - 1), l = 1 … limit, with the wanted mean, by Newton's method."""
    lengths = np.arange(1, spans.limit + 1, dtype=np.float64)
    log_ratio = -0.5
    for _ in range(100):
        weights = np.exp(log_ratio * (lengths - 1))
        share = weights / weights.sum()
        mean = (share * lengths).sum()
        log_ratio += (spans.mean - mean) / ((share * lengths**2).sum() - mean**2)
    return share


@given(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=300),
    st.floats(0.01, 0.99),
    st.integers(0, 2**62),
    st.integers(2, 12).flatmap(
        lambda limit: st.tuples(st.floats(1.01, (limit + 1) / 2 - 0.01), st.just(limit))
    ),
)
@settings(deadline=None, max_examples=60)
def test_exact_number_and_never_a_special_token(
    ids: list[int], ratio: float, row: int, spans: tuple[float, int]
) -> None:
    before = np.array(ids, dtype=np.int32)
    masked = _masker(*spans).mask(before, ratio, row)
    eligible = np.flatnonzero(~np.isin(before, SPECIAL.all()))
    assert len(masked.positions) == round(ratio * len(eligible))
    assert (np.diff(masked.positions) > 0).all()
    assert np.isin(masked.positions, eligible).all()
    np.testing.assert_array_equal(masked.labels, before[masked.positions])
    again = _masker(*spans).mask(before, ratio, row)
    np.testing.assert_array_equal(again.input_ids, masked.input_ids)


def test_known_spans() -> None:
    # Masks must never change between versions or machines, or resumed runs would differ.
    before = (np.arange(40) % VOCABULARY).astype(np.int32)
    assert _masker(3.8, 10).mask(before, 0.3, 5).positions.tolist() == KNOWN_POSITIONS


@pytest.mark.parametrize(
    "spans", [SPANBERT, SpanSettings(mean=3, limit=10), SpanSettings(mean=2.4, limit=4)]
)
def test_limits_are_those_of_the_truncated_distribution(spans: SpanSettings) -> None:
    """To 2 ** -31: thresholds are rounded down to 32 bits, the reference has 53."""
    cumulative = np.cumsum(_probabilities(spans))[:-1]
    np.testing.assert_allclose(span_limits(spans) / 2**32, cumulative, atol=2**-31)
    lengths = np.arange(1, spans.limit + 1)
    assert (_probabilities(spans) * lengths).sum() == pytest.approx(spans.mean, abs=1e-9)


def test_spanbert_s_mean_is_that_of_its_paper() -> None:
    """Geometric with p = 0.2 up to 10: the mean of 3.8 (Joshi et al., 2020)."""
    weights = 0.8 ** np.arange(10)
    np.testing.assert_allclose(
        np.cumsum(weights / weights.sum())[:-1], span_limits(SPANBERT) / 2**32, atol=2e-3
    )


@pytest.mark.parametrize("spans", [SPANBERT, SpanSettings(mean=2.4, limit=4)])
def test_spans_have_geometric_lengths(spans: SpanSettings) -> None:
    """Of runs of masked tokens at 1%, where one span in a hundred touches the next.

    Chi-square of limit - 1 degrees of freedom: 40 is exceeded with a probability below 1e-5.
    """
    masker = Masker(TOKENIZER, MaskingSettings(spans=spans), 3)
    before = np.full(100_000, 10, dtype=np.int32)
    runs = np.concatenate([_runs(masker.mask(before, 0.01, row).positions) for row in range(12)])
    assert (runs > spans.limit).mean() < 0.02, "longer than touching spans explain"
    counts = np.bincount(runs[runs <= spans.limit], minlength=spans.limit + 1)[1:]
    expected = counts.sum() * _probabilities(spans)
    assert ((counts - expected) ** 2 / expected).sum() < 40
    assert runs.mean() == pytest.approx(spans.mean / (1 - 0.01), rel=0.05)


def test_every_token_is_masked_equally_often() -> None:
    """Within 20%, and 6% over 20 neighbors: five standard deviations, and the last span's cut."""
    masker = _masker(3.0, 10)
    before = np.full(400, 10, dtype=np.int32)
    counts = np.zeros(400)
    rows = 2000
    for row in range(rows):
        counts[masker.mask(before, 0.3, row).positions] += 1
    assert counts.sum() == rows * 120
    shares = counts / (rows * 0.3)
    assert np.abs(shares - 1).max() < 0.2
    assert np.abs(shares.reshape(20, 20).mean(axis=1) - 1).max() < 0.06


def test_spans_end_with_their_document() -> None:
    """Documents of two tokens: neighbors are masked together no more than chance has it."""
    masker = _masker(3.8, 10)
    before = np.tile(np.array([SPECIAL.begin, 11, 12, SPECIAL.end], dtype=np.int32), 150)
    neighbors = both = chosen = 0
    for row in range(100):
        documents = np.bincount(masker.mask(before, 0.3, row).positions // 4, minlength=150)
        touched = np.flatnonzero(documents)
        neighbors += int((np.diff(touched) == 1).sum())
        both += int((documents == 2).sum())
        chosen += len(touched)
    share = chosen / (100 * 150)
    assert 0.9 < neighbors / (100 * share**2 * 149) < 1.1
    # A document is one span with probability 1 - P(1), else two; each is taken with 0.3.
    alone = _probabilities(SPANBERT)[0]
    expected = (1 - alone + alone * 0.3) / (1 - alone + alone * 1.7)
    assert both / chosen == pytest.approx(expected, abs=0.03)


def test_spans_keep_to_the_ratios_of_documents() -> None:
    sizes = (300, 40, 2, 500)
    before = np.concatenate([[SPECIAL.begin, *[11] * size, SPECIAL.end] for size in sizes])
    ends = np.cumsum([size + 2 for size in sizes])
    for row in range(50):
        positions = (
            _masker(3.0, 10)
            .mask(before.astype(np.int32), MaskRatioRange(low=0.1, high=0.3), row, ends)
            .positions
        )
        counts = np.bincount(np.searchsorted(ends, positions, side="right"), minlength=4)
        assert counts.sum() == round(0.2 * sum(sizes))
        for size, count in zip(sizes, counts.tolist(), strict=True):
            assert math.floor(0.1 * size) <= count <= math.ceil(0.3 * size)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("{mean: 5.5, limit: 10}", "mean 5.5 is not below 5.5"),
        ("{mean: 1, limit: 10}", "greater than 1"),
        ("{mean: 3}", "data.masking.spans.limit"),
    ],
)
def test_spans_that_cannot_be_are_refused(spans: str, message: str) -> None:
    with pytest.raises(UserError, match=r"data\.masking\.spans") as error:
        load_recipe("demo", [f"data.masking.spans={spans}"])
    assert message in error.value.message


def test_spans_and_whole_words_exclude_each_other() -> None:
    both = ["data.masking.spans={mean: 3, limit: 10}", "data.masking.whole_word=true"]
    with pytest.raises(UserError, match="whole_word and spans exclude each other"):
        load_recipe("demo", both)
