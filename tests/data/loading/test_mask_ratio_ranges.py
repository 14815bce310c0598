"""Mask ratios drawn for each document: the row's number is exact, documents keep to the range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.masking import Masker
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.tokenizer_description import SpecialIds, TokenizerDescription
from mmbert.errors import UserError
from mmbert.recipe import (
    MaskingSettings,
    MaskRatioRange,
    Recipe,
    dump_recipe,
    load_recipe,
    parse_recipe,
)
from mmbert.schedule import step_settings, training_plan
from tests.support.recipes import phase, small_recipe
from tests.support.row_reading import QUANTUM, assert_same, read_in_lockstep

SPECIAL = SpecialIds(pad=0, end=1, begin=2, unknown=30, mask=59)
TOKENIZER = TokenizerDescription(
    kind="huggingface", vocabulary_size=60, fingerprint="x", special_ids=SPECIAL
)
WIDE = MaskRatioRange(low=0.1, high=0.3)
KNOWN_COUNTS = [3, 7, 3, 11]


def _row(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a row of documents of `sizes` text tokens, and their ends."""
    parts = [[SPECIAL.begin, *[11] * size, SPECIAL.end] for size in sizes]
    return np.concatenate(parts).astype(np.int32), np.cumsum([size + 2 for size in sizes])


def _counts(sizes: list[int], ratio: MaskRatioRange, row: int, **masking: bool) -> np.ndarray:
    """Return the masked tokens of each document."""
    ids, ends = _row(sizes)
    starts = np.arange(60) % 3 == 0 if masking else None
    masked = Masker(TOKENIZER, MaskingSettings(**masking), 21, starts).mask(ids, ratio, row, ends)
    owners = np.searchsorted(ends, masked.positions, side="right")
    assert not np.isin(ids[masked.positions], SPECIAL.all()).any()
    return np.bincount(owners, minlength=len(sizes))


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=40),
    st.tuples(st.floats(0.01, 0.98), st.floats(0.01, 0.98)).filter(lambda ends: ends[0] != ends[1]),
    st.integers(0, 2**62),
    st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_the_sum_is_exact_and_every_document_within_the_range(
    sizes: list[int], ends: tuple[float, float], row: int, whole_word: bool
) -> None:
    ratio = MaskRatioRange(low=min(ends), high=max(ends))
    counts = _counts(sizes, ratio, row, **({"whole_word": True} if whole_word else {}))
    assert counts.sum() == round((ratio.low + ratio.high) / 2 * sum(sizes))
    for size, count in zip(sizes, counts.tolist(), strict=True):
        assert math.floor(ratio.low * size - 1e-6) <= count <= math.ceil(ratio.high * size + 1e-6)


def test_a_row_with_one_document_has_the_mean() -> None:
    for row in range(20):
        assert _counts([1000], WIDE, row).tolist() == [200]


def test_known_counts() -> None:
    # Masks must never change between versions or machines, or resumed runs would differ.
    assert _counts([30, 30, 20, 40], WIDE, 5).tolist() == KNOWN_COUNTS


def test_ratios_are_uniform_over_the_range() -> None:
    """Kolmogorov–Smirnov over 3,600 documents: 0.037 is exceeded by chance with 5e-5.

    Another 0.03 for the shift of a row (300 uniform ratios have a mean with a standard error of
    0.017 of the range) and for whole tokens.
    """
    found = np.concatenate([_counts([400] * 300, WIDE, row) for row in range(12)]) / 400
    places = np.sort((found - WIDE.low) / (WIDE.high - WIDE.low))
    steps = np.arange(1, len(places) + 1) / len(places)
    assert np.abs(places - steps).max() < 0.07
    assert found.mean() == pytest.approx(0.2, abs=1e-9)


def test_other_rows_and_seeds_have_other_ratios() -> None:
    first = _counts([200] * 50, WIDE, 1)
    np.testing.assert_array_equal(first, _counts([200] * 50, WIDE, 1))
    assert abs(np.corrcoef(first, _counts([200] * 50, WIDE, 2))[0, 1]) < 0.6


@pytest.fixture(scope="module")
def ranged() -> Recipe:
    """Two phases, one with a range, masked in spans."""
    return small_recipe(
        phase("a", 256 * QUANTUM * 2, mask_ratio={"low": 0.1, "high": 0.5}),
        phase("b", 256 * QUANTUM, context=128, mask_ratio=0.15),
        row_tokens=256,
        rows=QUANTUM,
        quantum=QUANTUM,
        data={"sources": [{"name": "web"}], "masking": {"spans": {"mean": 3, "limit": 10}}},
    )


def test_rows_have_the_slots_of_the_mean(corpus: Corpus, ranged: Recipe) -> None:
    rows = list(RowLoader(corpus, ranged, training_plan(ranged)))
    several, ratios = 0, list[float]()
    for row in rows[: 2 * QUANTUM]:
        assert len(row.labels) == math.ceil(0.3 * 256)
        text = row.tokens - 2 * len(row.documents)
        assert (row.weights > 0).sum() == round(0.3 * text)
        several += len(row.documents) > 1
        ratios += _ratios_within_the_range(row)
    assert several > QUANTUM
    # Uniform over [0.1, 0.5] they spread by 0.115, less where a row's sum pulls them together.
    assert np.std(ratios) > 0.05


def _ratios_within_the_range(row: Row) -> list[float]:
    """Return the mask ratios of a row's longer documents."""
    used = row.masked_positions[row.weights > 0]
    owners = np.searchsorted(row.cu_seqlens, used, "right") - 1
    counts = np.bincount(owners, minlength=len(row.documents))
    for (_, _, _, size), count in zip(row.documents.tolist(), counts.tolist(), strict=True):
        assert math.floor(0.1 * size) <= count <= math.ceil(0.5 * size)
    sizes = row.documents[:, 3]
    return list((counts / sizes)[(sizes >= 20) & (len(sizes) > 1)])


def test_masks_depend_on_no_rank(corpus: Corpus, ranged: Recipe) -> None:
    plan = training_plan(ranged)
    one, _ = read_in_lockstep(corpus, ranged, plan, 1)
    many, _ = read_in_lockstep(corpus, ranged, plan, 3)
    for first, second in zip(one, many, strict=True):
        assert_same(first, second)


def test_the_schedule_has_the_mean(ranged: Recipe) -> None:
    assert ranged.phases[0].predicted_fraction == 0.3
    assert ranged.phases[1].predicted_fraction == ranged.phases[1].mask_ratio == 0.15
    plan = training_plan(ranged)
    assert step_settings(ranged, plan, 0).mask_ratio == 0.3


def test_a_range_is_written_and_read_back() -> None:
    recipe = load_recipe("demo", ["phases.pretrain.mask_ratio={low: 0.1, high: 0.3}"])
    assert recipe.phases[0].mask_ratio == WIDE
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert "mask_ratio: 0.15" in dump_recipe(recipe), "a plain number stays one"


@pytest.mark.parametrize(
    ("value", "key", "message"),
    [
        ("{low: 0.3, high: 0.1}", "phases.decay.mask_ratio", "low 0.3 must be below high 0.1"),
        ("{low: 0.1}", "phases.decay.mask_ratio.high", "Field required"),
        ("{low: 0.1, high: 1.5}", "phases.decay.mask_ratio.high", "less than 1"),
        ("{low: 0.1, hihg: 0.5}", "phases.decay.mask_ratio", "did you mean 'high'"),
        ("1.5", "phases.decay.mask_ratio", "less than 1"),
        ("[0.1, 0.3]", "phases.decay.mask_ratio", "valid number"),
    ],
)
def test_what_is_no_ratio_is_refused_by_its_key(value: str, key: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("demo", [f"phases.decay.mask_ratio={value}"])
    assert f": {key}: " in error.value.message
    assert message in error.value.message
    assert "<" not in error.value.message
