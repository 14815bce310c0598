"""Fractions of sources and languages: formulas, caps and rejected recipes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.sampling.mixture_weights import (
    ComponentSize,
    PhaseMixture,
    component_tiers,
    phase_mixtures,
)
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from tests.support.recipes import phase, small_recipe


def _size(name: str, tokens: int, pieces: int | None = None, phases: int = 3) -> ComponentSize:
    source, language = name.split("/")
    pieces = pieces or max(1, tokens // 100)
    return ComponentSize(source, language, tokens, 4 * tokens, pieces, (pieces,) * phases)


def _mix(recipe: Recipe, *sizes: ComponentSize) -> tuple[PhaseMixture, ...]:
    return phase_mixtures(sizes, recipe)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=8), st.floats(0, 1))
@settings(deadline=None)
def test_tokens_follow_the_temperature(tokens: list[int], temperature: float) -> None:
    recipe = small_recipe(phase("a", 61_440, temperature=temperature))
    # neither bytes per token nor tokens per document play a part
    sizes = [
        replace(_size(f"web/l{i}", n, n // (50 + 10 * i)), size_bytes=(2 + i) * n)
        for i, n in enumerate(tokens)
    ]
    (mixture,) = phase_mixtures(sizes, recipe)
    expected = np.array([float(n) ** temperature for n in tokens])
    np.testing.assert_allclose(mixture.tokens, 61_440 * expected / expected.sum(), rtol=1e-9)
    per_piece = np.array([(size.tokens + 2 * size.pieces) / size.pieces for size in sizes])
    np.testing.assert_allclose(mixture.pieces.sum(axis=0), mixture.tokens / per_piece, rtol=1e-9)
    epochs = mixture.pieces.sum(axis=0) / [size.pieces for size in sizes]
    np.testing.assert_allclose(mixture.epochs, epochs, rtol=1e-9)


def test_pieces_are_counted_at_what_they_take_in_the_phases_own_rows() -> None:
    """100 pieces of 8,000 tokens together: in 200 segments of a short context, in 100 of a long."""
    recipe = small_recipe(phase("a", 61_440), phase("b", 61_440, context=128))
    sizes = (ComponentSize("web", "a_Latn", 8000, 32_000, 100, (200, 100)), _size("web/b", 5000))
    for mixture, taken in zip(phase_mixtures(sizes, recipe), (84.0, 82.0), strict=True):
        assert mixture.row_tokens_per_piece[0] == taken
        assert mixture.pieces.sum(axis=0)[0] * taken == pytest.approx(mixture.tokens[0], rel=1e-12)


def test_temperature_moves_within_a_phase() -> None:
    recipe = small_recipe(phase("a", 614_400, temperature={"start": 1.0, "end": 0.0}))
    (mixture,) = _mix(recipe, _size("web/big", 900_000), _size("web/small", 100_000))
    per_part = mixture.pieces * mixture.row_tokens_per_piece
    shares = per_part / per_part.sum(axis=1, keepdims=True)
    assert shares[0, 0] == pytest.approx(0.9, abs=0.01)
    assert shares[-1, 0] == pytest.approx(0.5, abs=0.01)
    assert (np.diff(shares[:, 0]) < 0).all()
    x = (np.arange(100_000) + 0.5) / 100_000
    exact = (9.0 ** (1 - x) / (9.0 ** (1 - x) + 1)).mean()
    assert mixture.tokens[0] / mixture.tokens.sum() == pytest.approx(exact, rel=1e-4)


def test_sources_share_by_their_tokens_and_budgets_go_by_size() -> None:
    sources = [
        {"name": "web", "tokens": {"a": 600}},
        {"name": "wiki", "tokens": {"a": 300, "b": 100}, "sampling": "budget"},
        {"name": "code", "tokens": {"a": 100, "b": 100}, "sampling": "budget"},
    ]
    languages = ["deu", "fra"]
    recipe = small_recipe(
        phase("a", 61_440, languages=languages, temperature=0.5),
        phase("b", 61_440, languages=languages),
        sources=sources,
    )
    sizes = (
        _size("web/deu_Latn", 4_000_000),
        _size("web/fra_Latn", 1_000_000),
        _size("web/ita_Latn", 1_000_000),
        _size("wiki/ita_Latn", 300_000),
        _size("wiki/deu_Latn", 100_000),
        _size("code/python_Zyyy", 5_000),
        _size("books/deu_Latn", 5_000),
    )
    first, second = _mix(recipe, *sizes)
    expected = np.array([0.6 * 2 / 3, 0.6 / 3, 0, 0.3 * 0.75, 0.3 * 0.25, 0.1, 0])
    np.testing.assert_allclose(first.tokens / 61_440, expected, rtol=1e-9)
    np.testing.assert_allclose(
        second.tokens / 61_440, [0, 0, 0, 0.5 * 0.75, 0.5 * 0.25, 0.5, 0], rtol=1e-9
    )
    assert component_tiers(sizes, recipe).tolist() == [0, 0, -1, 0, 0, 0, -1]
    assert first.active.tolist() == [True, True, False, True, True, True, False]


def test_caps_hold_over_the_whole_run_and_free_tokens_go_to_the_others() -> None:
    recipe = small_recipe(
        phase("a", 614_400, temperature=0.0),
        phase("b", 614_400, temperature={"start": 0.0, "end": 0.5}),
        sources=[{"name": "web", "max_epochs": 2.0}],
    )
    sizes = (
        _size("web/tiny", 50_000),
        _size("web/small", 130_000),
        _size("web/big", 2_000_000),
        _size("web/huge", 4_000_000),
    )
    first, second = _mix(recipe, *sizes)
    total = first.epochs + second.epochs
    assert first.epochs[0] == pytest.approx(2.0)  # would be three epochs
    assert second.epochs[0] == 0
    assert total[1] == pytest.approx(2.0)
    assert (total <= 2.0 + 1e-9).all()
    for mixture in (first, second):
        assert mixture.tokens.sum() == pytest.approx(614_400)
    assert first.tokens[2] == pytest.approx(first.tokens[3])
    assert first.tokens[2] > 614_400 / 4


@given(st.lists(st.integers(1000, 10**6), min_size=2, max_size=8), st.floats(0.3, 4))
@settings(deadline=None)
def test_water_filling_fills_or_says_what_is_missing(tokens: list[int], cap: float) -> None:
    recipe = small_recipe(
        phase("a", 614_400, temperature={"start": 0.9, "end": 0.2}),
        sources=[{"name": "web", "max_epochs": cap}],
    )
    sizes = [_size(f"web/l{i}", n) for i, n in enumerate(tokens)]
    room = cap * sum(size.tokens + 2 * size.pieces for size in sizes)
    if room < 614_400 * (1 - 1e-9):
        with pytest.raises(UserError, match="max_epochs"):
            phase_mixtures(sizes, recipe)
    elif room > 614_400 * 1.02:
        (mixture,) = phase_mixtures(sizes, recipe)
        assert mixture.tokens.sum() == pytest.approx(614_400, rel=1e-6)
        assert (mixture.epochs <= cap * (1 + 1e-9)).all()


def test_selection_by_minimum_size() -> None:
    recipe = small_recipe(phase("a", 61_440, languages={"minimum_tokens": 5000}))
    (mixture,) = _mix(recipe, _size("web/big", 5000), _size("web/small", 4999))
    assert mixture.active.tolist() == [True, False]
    recipe = small_recipe(phase("a", 61_440, languages={"minimum_bytes": 19_997}))
    (mixture,) = _mix(recipe, _size("web/big", 5000), _size("web/small", 4999))
    assert mixture.active.tolist() == [True, False]


def test_one_folder_for_two_sources_is_refused() -> None:
    sources = [
        {"name": "web", "tokens": {"a": 1}},
        {"name": "copy", "path": "web", "tokens": {"a": 1}},
    ]
    with pytest.raises(UserError, match="sources 'web' and 'copy' both read 'web'"):
        _mix(small_recipe(phase("a", 61_440), sources=sources), _size("web/deu_Latn", 1000))


def test_what_cannot_be_drawn_is_refused() -> None:
    size = _size("web/deu_Latn", 1000)
    with pytest.raises(UserError, match=r"phases\.a\.languages selects none"):
        _mix(small_recipe(phase("a", 61_440, languages=["fra"])), size)
    with pytest.raises(UserError, match=r"source 'books'.*no text in 'gutenberg'.*web"):
        _mix(
            small_recipe(phase("a", 61_440), sources=[{"name": "books", "path": "gutenberg"}]),
            size,
        )
