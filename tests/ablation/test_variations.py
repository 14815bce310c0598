"""Variations that the user gives, thresholds and the spread of seeds."""

import json
import shutil
from pathlib import Path

import pytest

from mmbert.ablation.ablations import FULL, Ablation, select_ablations
from mmbert.ablation.comparison import (
    Comparison,
    Threshold,
    compare,
    spread_of,
    verdict_by_threshold,
)
from mmbert.ablation.runs import plan_runs
from mmbert.ablation.tables import describe_spread
from mmbert.ablation.threshold import keep_threshold
from mmbert.ablation.variations import parse_variations
from mmbert.errors import UserError
from mmbert.recipe import load_recipe
from tests.ablation.test_runs import ablate

FILE = """
low-rate:
  overrides: [optimizer.learning_rate=1e-3]
spans:
  meaning: spans as in SpanBERT
  overrides:
    - 'data.masking.spans={mean: 3.8, limit: 10}'
    - phases.pretrain.mask_ratio=0.2
"""


def test_variations_come_from_options_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(FILE)
    option = "adamw optimizer.name=adamw 'phases.decay.languages=[eng, deu]'"
    assert parse_variations([option], tmp_path / "own.yaml") == (
        Ablation(
            "adamw",
            "optimizer.name=adamw phases.decay.languages=[eng, deu]",
            ("optimizer.name=adamw", "phases.decay.languages=[eng, deu]"),
        ),
        Ablation("low-rate", "optimizer.learning_rate=1e-3", ("optimizer.learning_rate=1e-3",)),
        Ablation(
            "spans",
            "spans as in SpanBERT",
            ("data.masking.spans={mean: 3.8, limit: 10}", "phases.pretrain.mask_ratio=0.2"),
        ),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no overrides"),
        ("name", "has no overrides"),
        ("name seed", "'seed' is not KEY=VALUE"),
        ("../name seed=1", "the name must be letters"),
        ("name 'seed=1", "cannot be split into words"),
    ],
)
def test_malformed_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_variations([text], None)
    assert message in error.value.message
    assert error.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no variations"),
        ("[a, b]", "has no variations"),
        ("a: [", "cannot be read"),
        ("a: {overrides: []}", "'a': overrides: "),
        ("a: {overrides: [x=1], meening: b}", "'a': meening: "),
        ("a: {overrides: {x: 1}}", "'a': overrides: "),
        ("a: x=1", "'a': "),
        ("a: {overrides: [x]}", "'x' is not KEY=VALUE"),
        ("a b: {overrides: [x=1]}", "the name must be letters"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        parse_variations([], tmp_path / "own.yaml")
    assert message in error.value.message
    assert "own.yaml" in error.value.message
    with pytest.raises(UserError, match="cannot be read"):
        parse_variations([], tmp_path / "none.yaml")


def test_names_are_distinct() -> None:
    with pytest.raises(UserError, match="two variations are named 'a'"):
        parse_variations(["a x=1", "a x=2"], None)
    with pytest.raises(UserError, match="'full' has the name of an ablation"):
        select_ablations(load_recipe("demo"), (), parse_variations(["full x=1"], None))


def test_variations_stand_for_the_ablations_unless_named() -> None:
    recipe, own = load_recipe("demo"), parse_variations(["a seed=1"], None)
    assert [one.name for one in select_ablations(recipe, (), own)] == [FULL, "a"]
    both = select_ablations(recipe, ("a", "two-phases"), own)
    assert [one.name for one in both] == [FULL, "two-phases", "a"]
    assert [one.name for one in select_ablations(recipe, (FULL,))] == [FULL]


def test_only_equal_beginnings_are_shared(inputs: Path, tmp_path: Path) -> None:
    """An optimizer, masks or contexts of its own change the first phase, too."""
    given = (
        ("last", "phases.decay.mask_ratio=0.3", 16),
        ("optimizer", "optimizer.learning_rate=1e-3", 0),
        ("masks", "data.masking.mask=0.7", 0),
        ("context", "phases.decay.context=64", 16),
        ("longest", "phases.decay.context=256", 0),
    )
    own = parse_variations([f"{name} {override}" for name, override, _ in given], None)
    runs = plan_runs(inputs / "recipe.yaml", (), (Ablation(FULL, "", ()), *own), 2, tmp_path)
    found = {(run.ablation.name, run.seed): run.shared_steps for run in runs}
    for name, _, shared in given:
        assert found[name, 3] == found[name, 4] == shared, name
    same = parse_variations(["same optimizer.learning_rate=3.0e-3"], None)
    with pytest.raises(UserError, match="variation 'same' does not change recipe small"):
        plan_runs(inputs / "recipe.yaml", (), same, 1, tmp_path)


FULL_LOSSES = {1: {"all": 3.0, "decay": 5.0}, 2: {"all": 3.4, "decay": 5.4}}


def test_a_threshold_decides_over_all_tiers() -> None:
    own = {seed: tiers | {"all": tiers["all"] - 0.05} for seed, tiers in FULL_LOSSES.items()}
    for nats, words in (
        (0.04, "better by more than the threshold"),
        (0.06, "within the threshold"),
    ):
        found = compare(own, FULL_LOSSES, Threshold(nats=nats, written="before"))
        assert found["all"].verdict == words
        assert found["decay"].verdict == "no difference seen", "by standard errors"
    assert verdict_by_threshold(0.05, 0.04) == "worse by more than the threshold"
    assert verdict_by_threshold(-0.05, 0.05) == "within the threshold"


def test_the_spread_is_that_of_the_seeds() -> None:
    spread = spread_of({1: {"all": 3.0}, 2: {"all": 3.4}, 3: {"all": 3.2}})
    assert spread is not None
    assert (spread.seeds, spread.standard_deviation) == (3, pytest.approx(0.2))
    assert spread.two_standard_deviations == pytest.approx(0.4)
    assert spread_of({1: {"all": 3.0}}) is None
    comparison = Comparison(recipe="r", steps=1, tokens=1, mask_ratio=0.1, spread=spread)
    assert "3 seeds" in describe_spread(comparison)
    assert "0.2000 nats, two of them 0.4000" in describe_spread(comparison)


def test_a_threshold_is_written_before_the_runs_and_stays(inputs: Path, tmp_path: Path) -> None:
    own = parse_variations(["a optimizer.learning_rate=1e-3"], None)
    ablations = (Ablation(FULL, "", ()), *own)
    runs = plan_runs(inputs / "recipe.yaml", (), ablations, 1, tmp_path / "out")
    folder = tmp_path / "out"
    assert keep_threshold(None, runs, folder, 0.15) is None
    assert not folder.exists()
    (folder / FULL / "seed-3").mkdir(parents=True)  # runs of the full recipe may come before
    written = keep_threshold(0.02, runs, folder, 0.15)
    assert written is not None
    stored = json.loads((folder / "ablations.json").read_text())
    assert stored["threshold"] == {"nats": 0.02, "written": written.written}
    assert stored["variations"] == []
    (folder / "a" / "seed-3").mkdir(parents=True)
    assert keep_threshold(None, runs, folder, 0.15) == written
    assert keep_threshold(0.02, runs, folder, 0.15) == written
    with pytest.raises(UserError, match=r"ablations\.json has 0\.02, written") as error:
        keep_threshold(0.03, runs, folder, 0.15)
    assert "another --output" in error.value.remedy
    (folder / "ablations.json").unlink()
    with pytest.raises(UserError, match="comes too late: a, seed 3 has begun"):
        keep_threshold(0.02, runs, folder, 0.15)
    (folder / "ablations.json").write_text("{")
    with pytest.raises(UserError, match=r"ablations\.json is damaged"):
        keep_threshold(None, runs, folder, 0.15)


def test_the_dry_run_says_what_variations_cost(inputs: Path, tmp_path: Path) -> None:
    masks = "more phases.pretrain.mask_ratio=0.9"
    call = ablate(
        inputs, tmp_path / "out", "--variation", masks, "--equal", "flops", "--threshold", "0.1",
        "--dry-run",
    )  # fmt: skip
    assert call.status == 0, call.said
    assert "phases.pretrain.tokens=" in call.said
    assert "constant-mask" not in call.said
    costs = [line.split(", ")[2] for line in call.said.splitlines() if line.endswith(" FLOPs")]
    full, varied = (float(cost.removesuffix(" FLOPs")) for cost in costs)
    assert varied == pytest.approx(full, rel=1 / 20), "a step of 22 at most"
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_variations_are_trained_at_equal_flops_and_judged_by_the_threshold(
    inputs: Path, tmp_path: Path
) -> None:
    """Two seeds: the full recipe first, then a variation with the threshold of its spread."""
    output = tmp_path / "out"
    first = ablate(inputs, output, "--only", FULL, "--seeds", "2")
    assert first.status == 0, first.said
    spread = json.loads((output / "ablations.json").read_text())["spread"]
    losses = json.loads((output / "ablations.json").read_text())["variations"][0]["tiers"]["all"]
    own = list(losses["losses"].values())
    assert spread["standard_deviation"] == pytest.approx(abs(own[0] - own[1]) / 2**0.5)
    assert f"{2 * spread['standard_deviation']:.4f}" in first.said
    threshold = f"{spread['two_standard_deviations']:.4f}"
    words = (
        *("--variation", "spans 'data.masking.spans={mean: 3, limit: 10}'"),
        *("--variation", "many 'phases.extension.mask_ratio={low: 0.5, high: 0.9}'"),
        *("--equal", "flops", "--threshold", threshold, "--seeds", "2"),
    )
    second = ablate(inputs, output, *words)
    assert second.status == 0, second.said
    assert "remaining: 4 runs" in second.said
    result = json.loads((output / "ablations.json").read_text())
    full, spans, many = result["variations"]
    assert (full["name"], spans["name"], many["name"]) == (FULL, "spans", "many")
    assert (result["equal"], result["threshold"]["nats"]) == ("flops", float(threshold))
    assert spans["tokens"] == full["tokens"] > many["tokens"]
    assert many["flops"] == pytest.approx(full["flops"], rel=1 / 20)
    trained = json.loads((output / "many/seed-3/results.json").read_text())["phases"]
    assert sum(phase["tokens"] for phase in trained) == many["tokens"]
    starts = {
        name: json.loads((output / name / "seed-3/results.json").read_text())["phases"][0]
        for name in (FULL, "spans")
    }
    before = [starts[name]["held_out_start"]["overall"] for name in (FULL, "spans")]
    assert before[0] == before[1], "held-out masks are single tokens in all runs"
    for entry in (spans, many):
        assert "threshold" in entry["tiers"]["all"]["reading"]
        assert f"{entry['flops']:.4g}" in second.said
    refused = ablate(inputs, output, *words[:-3], "0.5", "--seeds", "2")
    assert refused.status == 2, refused.said
    assert "before its runs" in refused.said
    shutil.rmtree(output)
