"""Signatures: what they estimate, that they never change, and what they need."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.errors import PackageError
from mmbert_prep.filters.signatures import Signer, plan_near_duplicates, shingles
from tests.support.similar_texts import ALPHABETS, TextMaker, jaccard


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(128)


def test_signatures_are_those_of_all_machines_and_versions(signer: Signer) -> None:
    """Stored ones are compared with new ones when an interrupted run continues elsewhere."""
    signatures = signer.sign(["The river runs past a small house near old trees.", "河流", ""])
    assert signatures.dtype == np.uint16
    assert signatures[:, :6].tolist() == [
        [13571, 1468, 56425, 26242, 1343, 26819],
        [50041, 2712, 53188, 7189, 39210, 37477],
        [19717, 3476, 23950, 44071, 3578, 11831],
    ]


def test_case_width_and_layout_do_not_count(signer: Signer) -> None:
    one, two, three = signer.sign(
        ["the river\nruns past", "Ｔｈｅ  River runs\tpast \n", "the river runs fast"]
    )
    assert (one == two).all()
    assert not (one == three).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_a_signature_depends_on_the_text_alone(texts: list[str]) -> None:
    """Not on the other texts of a batch: equal sets of shingles have equal signatures."""
    signer = Signer(32)
    together = signer.sign(texts)
    for text, signature in zip(texts, together, strict=True):
        assert (signer.sign([text])[0] == signature).all()
        for other, its in zip(texts, together, strict=True):
            if set(shingles(text)) == set(shingles(other)):
                assert (signature == its).all()


def test_long_texts_are_hashed_in_parts_without_a_seam(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the texts of a batch in groups."""
    maker = TextMaker("eng_Latn")
    texts = [maker.text(words) for words in (20, 300, 5, 5, 40, 200)]
    whole = signer.sign(texts)
    for size in (1, 7, 100, 500):
        monkeypatch.setattr("mmbert_prep.filters.signatures._WINDOWS_AT_ONCE", size)
        monkeypatch.setattr("mmbert_prep.filters.signatures._CHARACTERS_AT_ONCE", size)
        monkeypatch.setattr("mmbert_prep.filters.signatures._DOCUMENTS_AT_ONCE", size)
        assert (signer.sign(texts) == whole).all()
    assert signer.sign([]).shape == (0, 128)


@pytest.mark.parametrize("language", ALPHABETS)
def test_agreeing_values_estimate_the_similarity_in_all_scripts(
    signer: Signer, language: str
) -> None:
    """The mean over 25 pairs of 128 values has a standard error of at most sqrt(1/4/3200)."""
    maker = TextMaker(language)
    pairs = [maker.pair(120, 0.6, scattered=number % 2 == 0) for number in range(25)]
    true = np.mean([jaccard(*pair) for pair in pairs])
    signatures = signer.sign([text for pair in pairs for text in pair])
    estimate = (signatures[::2] == signatures[1::2]).mean()
    assert abs(estimate - true) < 4 * math.sqrt(0.25 / 3200)
    unrelated = (signatures[::2] == np.roll(signatures[::2], 1, axis=0)).mean()
    assert unrelated < 0.01


@pytest.mark.parametrize("permutations", [32, 128, 1024])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold: float, permutations: int) -> None:
    plan = plan_near_duplicates(threshold, permutations)
    assert plan.bands * plan.rows <= permutations
    assert 1 - (1 - threshold**plan.rows) ** plan.bands >= 0.98
    more = plan.rows + 1
    if more <= permutations:
        assert 1 - (1 - threshold**more) ** (permutations // more) < 0.98
    enough = sum(_binomial(n, permutations, threshold) for n in range(plan.matches))
    assert enough <= 0.06


def _binomial(successes: int, trials: int, probability: float) -> float:
    ways = math.comb(trials, successes)
    return ways * probability**successes * (1 - probability) ** (trials - successes)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "rensa is not installed"),
        (SimpleNamespace(ALGORITHM_VERSION=3), "computes other signatures than version 2"),
        (SimpleNamespace(), "computes other signatures than version 2"),
    ],
)
def test_another_or_no_rensa_is_refused(
    monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace | None, message: str
) -> None:
    fake = None
    if module is not None:
        fake = ModuleType("rensa")
        fake.__dict__["RMinHash"] = module
    monkeypatch.setitem(sys.modules, "rensa", fake)
    with pytest.raises(PackageError, match=message) as caught:
        Signer(128)
    assert "mmbert-train[near-duplicates]" in str(caught.value)
