"""Statistics of the comparison, on synthetic losses with known results."""

import io
import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from rich.console import Console

from mmbert.ablation.comparison import (
    AblationResult,
    Comparison,
    compare,
    tier_losses,
    verdict,
)
from mmbert.ablation.tables import render
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable

FULL = {1: {"all": 3.0, "decay": 5.0}, 2: {"all": 3.4, "decay": 5.4}, 3: {"all": 3.2, "decay": 5.2}}


def _moved(
    differences: tuple[float, float, float], tier: str = "all"
) -> dict[int, dict[str, float]]:
    return {
        seed: losses | {tier: losses[tier] + difference}
        for (seed, losses), difference in zip(FULL.items(), differences, strict=True)
    }


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by up to 0.4, which must not enter the standard error."""
    entry = compare(_moved((0.10, 0.12, 0.11)), FULL)["all"]
    assert entry.mean == pytest.approx(3.31)
    assert entry.difference == pytest.approx(0.11)
    assert entry.standard_error == pytest.approx(0.01 / math.sqrt(3))
    assert entry.verdict == "worse than full"
    assert entry.losses == pytest.approx({1: 3.10, 2: 3.52, 3: 3.31})


def test_what_chance_could_do_is_no_difference() -> None:
    found = compare(_moved((-0.10, 0.12, 0.05)), FULL)
    assert found["all"].difference == pytest.approx(0.07 / 3)
    assert found["all"].verdict == "no difference seen"
    assert found["decay"].difference == 0
    assert found["decay"].verdict == "no difference seen"
    assert compare(_moved((-0.3, -0.31, -0.29)), FULL)["all"].verdict == "better than full"


def test_the_bar_is_two_standard_errors() -> None:
    assert verdict(0.2001, 0.1) == "worse than full"
    assert verdict(-0.2001, 0.1) == "better than full"
    assert verdict(0.1999, 0.1) == verdict(-0.1999, 0.1) == "no difference seen"


def test_one_seed_has_no_error_and_claims_nothing() -> None:
    entry = compare({1: {"all": 3.5, "decay": 5.0}}, {1: FULL[1]})["all"]
    assert entry.difference == pytest.approx(0.5)
    assert entry.standard_error is None
    assert entry.verdict == "one seed: no error estimate"


def test_the_full_recipe_has_losses_and_no_difference() -> None:
    entry = compare(FULL, FULL)["decay"]
    assert (entry.mean, entry.difference, entry.verdict) == (pytest.approx(5.2), None, "")


def test_tiers_are_means_over_masked_tokens() -> None:
    means, counts = np.array([2.0, 4.0, 6.0, 9.0]), np.array([300.0, 100.0, 100.0, 999.0])
    phases = [SimpleNamespace(name=name) for name in ("pretrain", "extension", "decay")]
    table = SimpleNamespace(
        tiers=("pretrain", "pretrain", "decay", "none"), plan=SimpleNamespace(phases=phases)
    )
    found = tier_losses(LossTable(means * counts, counts), cast(ComponentTable, table))
    assert list(found) == ["all", "pretrain", "decay"], "no row for a tier without languages"
    assert found == pytest.approx({"all": 3.2, "pretrain": 2.5, "decay": 6.0})


def test_the_table_says_it_all() -> None:
    comparison = Comparison(
        recipe="demo",
        steps=587,
        tokens=2_404_352,
        mask_ratio=0.15,
        context=512,
        languages={"all": 9, "decay": 4},
        ablations=[
            AblationResult(name=name, meaning="", overrides=(), tiers=compare(own, FULL))
            for name, own in (("full", FULL), ("constant-mask", _moved((0.1, 0.12, 0.11))))
        ],
    )
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render(comparison))
    lines = console.export_text().splitlines()
    for words in (
        ("demo", "2,404,352 tokens each", "3 seeds", "15% masked", "cut to 512"),
        ("full", "all (9)", "3.200"),
        ("constant-mask", "all (9)", "3.310", "+0.110", "0.006", "worse than full"),
        ("decay (4)", "5.200", "+0.000", "0.000", "no difference seen"),
    ):
        assert any(all(word in line for word in words) for line in lines) or all(
            word in "".join(lines[:3]) for word in words
        ), words
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
