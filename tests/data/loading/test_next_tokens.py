"""Next tokens of a causal phase: which are predicted, their number, and the rows that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.masking import Masker
from mmbert.data.loading.validation_rows import validation_rows
from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.tokenizer_description import SpecialIds, TokenizerDescription
from mmbert.recipe import EvaluationSettings, MaskingSettings, Recipe, override_recipe
from mmbert.schedule import training_plan

VOCABULARY = 60
SPECIAL = SpecialIds(pad=0, end=1, begin=2, unknown=30, mask=59)
TOKENIZER = TokenizerDescription(
    kind="huggingface", vocabulary_size=VOCABULARY, fingerprint="x", special_ids=SPECIAL
)
KNOWN_POSITIONS = [3, 5, 12, 13, 15, 24, 27, 31, 33, 34, 35]


def packed(documents: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    ids = [token for text in documents for token in (SPECIAL.begin, *text, SPECIAL.end)]
    return np.array(ids + [SPECIAL.pad] * padding, dtype=np.int32)


@given(
    st.lists(st.lists(st.integers(3, VOCABULARY - 1), max_size=40), min_size=1, max_size=6),
    st.integers(0, 20),
    st.floats(0.01, 1),
    st.integers(0, 2**62),
)
@settings(deadline=None)
def test_exact_number_of_text_tokens_and_the_positions_before_them(
    documents: list[list[int]], padding: int, share: float, row: int
) -> None:
    ids = packed(documents, padding)
    before = ids.copy()
    found = Masker(TOKENIZER, MaskingSettings(), 21).next_tokens(ids, share, row)
    np.testing.assert_array_equal(found.input_ids, before)  # nothing is masked
    text = np.flatnonzero(~np.isin(before, SPECIAL.all()))
    assert len(found.positions) == round(share * len(text))
    assert (np.diff(found.positions) > 0).all()
    np.testing.assert_array_equal(found.labels, before[found.positions + 1])
    assert np.isin(found.positions + 1, text).all()
    # A position and its label are in one document: none is predicted from the one before it.
    number = np.cumsum(before == SPECIAL.begin)
    np.testing.assert_array_equal(number[found.positions], number[found.positions + 1])
    if share == 1:
        np.testing.assert_array_equal(found.positions + 1, text)


def test_they_are_the_tokens_that_are_masked_otherwise() -> None:
    ids = packed([range(3, 50)] * 20, 17)
    for whole_words in (None, np.arange(VOCABULARY) % 3 == 0):
        masker = Masker(TOKENIZER, MaskingSettings(), 21, whole_words)
        plain = Masker(TOKENIZER, MaskingSettings(), 21)
        found = masker.next_tokens(ids, 0.3, 7)
        np.testing.assert_array_equal(found.positions + 1, plain.mask(ids, 0.3, 7).positions)


def test_known_positions() -> None:
    """They must never change between versions or machines, or resumed runs would differ."""
    ids = (np.arange(40) % VOCABULARY).astype(np.int32)
    found = Masker(TOKENIZER, MaskingSettings(), 21).next_tokens(ids, 0.3, 5)
    assert found.positions.tolist() == KNOWN_POSITIONS
    assert found.labels.tolist() == [position + 1 for position in KNOWN_POSITIONS]


@pytest.fixture(scope="module")
def causal(recipe: Recipe) -> Recipe:
    """The recipe with a causal first phase."""
    first = recipe.phases[0].name
    keys = {"objective": "causal", "mask_ratio": None, "predicted_share": 0.3}
    return override_recipe(recipe, {f"phases.{first}.{key}": keys[key] for key in keys})


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (1, 1)])
def test_rows_are_the_unmasked_ones_on_any_number_of_ranks_and_workers(
    corpus: Corpus, recipe: Recipe, causal: Recipe, ranks: int, workers: int
) -> None:
    plan, masked_plan = training_plan(causal), training_plan(recipe)
    phase = plan.phases[0]
    masked = iter(RowLoader(corpus, recipe, masked_plan))
    loaders = [
        iter(RowLoader(corpus, causal, plan, data_rank=rank, data_ranks=ranks, workers=workers,
                       exchange=lambda own: [own]))
        for rank in range(ranks)
    ]  # fmt: skip
    count = min(phase.rows, 12)
    rows = [next(loaders[index % ranks]) for index in range(count)]
    for row in rows:
        other = next(masked)
        assert row.index == other.index
        ids = other.input_ids.copy()
        hidden = other.weights > 0
        ids[other.masked_positions[hidden]] = other.labels[hidden]
        np.testing.assert_array_equal(row.input_ids, ids)
        np.testing.assert_array_equal(row.cu_seqlens, other.cu_seqlens)
        used = row.weights > 0
        assert len(row.labels) == math.ceil(0.3 * len(ids))
        assert used.sum() == round(0.3 * (row.tokens - 2 * len(row.documents)))
        np.testing.assert_array_equal(row.labels[used], ids[row.masked_positions[used] + 1])
        owners = np.searchsorted(row.cu_seqlens, row.masked_positions[used], "right") - 1
        np.testing.assert_array_equal(row.masked_components[used], row.segment_components[owners])
    for loader in loaders:
        loader.close()


def test_held_out_rows_have_the_same_documents_and_tokens(corpus: Corpus, recipe: Recipe) -> None:
    masked, following = (
        validation_rows(
            corpus,
            sources={component.source for component in corpus.components},
            settings=EvaluationSettings(documents_per_language=4),
            context=recipe.phases[0].context,
            row_tokens=256,
            masking=MaskingSettings(),
            causal=causal,
        )
        for causal in (False, True)
    )
    assert len(masked) == len(following) > 0
    for one, other in zip(masked, following, strict=True):
        np.testing.assert_array_equal(one.documents, other.documents)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.weights, other.weights)
        used = one.weights > 0
        np.testing.assert_array_equal(one.masked_positions[used], other.masked_positions[used] + 1)
