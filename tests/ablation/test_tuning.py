"""`mmbert tune`: the search from low values up, and its runs."""

import json
import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.ablation.search import Search, next_value, parse_search, search
from mmbert.ablation.tuning import SearchResult, Trial, Tuning, render, shortened
from mmbert.cli import app
from mmbert.errors import UserError
from mmbert.recipe import load_recipe
from mmbert.schedule import training_plan
from tests.ablation.test_runs import LAUNCH, Call
from tests.support.tiny_run import ENVIRONMENT


def _tried(values: list[float], lowest: float, most: int = 12) -> list[float]:
    """Return the values in the order tried, of a loss that is least at `lowest`."""
    tried: list[float] = []

    def loss_of(value: float) -> float:
        tried.append(value)
        return abs(math.log(value / lowest))

    search(values, loss_of, most)
    return tried


def test_values_are_tried_from_the_lowest_until_the_loss_rises() -> None:
    assert _tried([1, 2, 4, 8, 16], 3.9) == [1, 2, 4, 8]
    assert _tried([1, 2, 4, 8, 16], 2.1) == [1, 2, 4]


def test_the_search_goes_beyond_both_ends() -> None:
    assert _tried([4, 8], 1.1) == [4, 8, 2, 1, 0.5]
    assert _tried([1, 3], 80.0) == [1, 3, 9, 27, 81, 243]
    assert _tried([1e-3, 2e-3], 2.4e-4) == [1e-3, 2e-3, 5e-4, 2.5e-4, 1.25e-4]


def test_a_plateau_above_is_not_entered() -> None:
    """As found on small text: from 2e-3 up all rates end near the unigram loss."""
    losses = {1.25e-4: 7.9, 2.5e-4: 7.7, 5e-4: 7.6, 1e-3: 7.53, 2e-3: 7.853, 4e-3: 7.84, 8e-3: 7.9}
    found = search(sorted(losses), lambda value: losses[value], 12)
    assert min(found, key=lambda value: found[value]) == 1e-3
    assert max(found) == 2e-3
    downwards = search([2e-3, 4e-3], lambda v: 7.83 if v == 2e-3 else losses[v], 12)
    assert min(downwards, key=lambda value: downwards[value]) == 1e-3


def test_a_search_ends_at_its_most_runs_and_at_divergence() -> None:
    assert _tried([1, 2], 1e9, most=4) == [1, 2, 4, 8]
    assert next_value([1, 2], {1: 3.0, 2: 2.0, 4: 1.0, 8: 0.5}) == 16
    assert next_value([1, 2, 4], {1: 3.0, 2: 2.0, 4: math.inf}) is None


def test_searches_are_parsed() -> None:
    one = parse_search("a.b+c=1e-4,2e-4")
    assert one == Search(("a.b", "c"), (1e-4, 2e-4))
    assert one.overrides(2e-4) == ("a.b=0.0002", "c=0.0002")
    for text in ("a", "a=", "=1,2", "a=1", "a=2,1", "a=1,1", "a=0,1", "a=-1,1", "a=1,x", "a+=1,2",
                 "a=1,inf", "a=nan,1"):  # fmt: skip
        with pytest.raises(UserError, match="--search"):
            parse_search(text)


def test_everything_in_tokens_is_shortened_alike() -> None:
    full = load_recipe("mmbert-base")
    short = load_recipe("mmbert-base", shortened(full, 3_000_000_000))
    plan = training_plan(short)
    assert plan.tokens == pytest.approx(3e9, rel=0.03), "whole steps of up to 38M tokens"
    assert [phase.tokens for phase in short.phases] == [2_300_000_000, 600_000_000, 100_000_000]
    assert short.phases[0].learning_rate.warmup == 3_000_000
    assert short.batch.growth is not None
    assert short.batch.growth.tokens == 60_000_000
    decay = ("phases.decay.learning_rate.decay_tokens=50B",)
    short = load_recipe(
        "mmbert-base", [*decay, *shortened(load_recipe("mmbert-base", decay), 3_000_000_000)]
    )
    assert short.phases[2].learning_rate.decay_tokens == 50_000_000


def _tune(inputs: Path, output: Path, *words: str, launch: str = LAUNCH) -> Call:
    command = ["tune", inputs / "recipe.yaml", "--data", inputs / "shards", "--output", output]
    result = CliRunner(env=ENVIRONMENT).invoke(
        app, [*map(str, command), "--launch", launch, *words]
    )
    if isinstance(result.exception, UserError):
        return Call(2, f"error: {result.exception}")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Call(result.exit_code, result.output)


def test_the_dry_run_says_how_long_a_run_is(inputs: Path, tmp_path: Path) -> None:
    search = ("--search", "optimizer.learning_rate=1e-3,2e-3")
    call = _tune(inputs, tmp_path / "out", *search, "--tokens", "11k", "--dry-run")
    assert call.status == 0, call.said
    assert "optimizer.learning_rate: from 0.001 upwards, at most 12 runs" in call.said
    assert "each run 11 steps, 11,264 tokens" in call.said
    assert not (tmp_path / "out").exists()
    wrong = _tune(inputs, tmp_path / "out", "--search", "optimizer.learning_rat=1e-3,2e-3")
    assert wrong.status == 2
    assert "'learning_rate'" in wrong.said


def test_a_failing_run_is_passed_on(inputs: Path, tmp_path: Path) -> None:
    search = ("--search", "optimizer.learning_rate=1e-3,2e-3")
    call = _tune(inputs, tmp_path, *search, launch="sh -c 'echo no room; exit 7'")
    assert call.status == 7
    assert "optimizer.learning_rate=0.001, seed 3 failed" in call.said


DIVERGES = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
with (folder / "log.jsonl").open("a") as log:
    for step in range(11):
        log.write(json.dumps({"event": "not finite", "step": step, "text": ""}) + "\\n")
sys.exit(2)
"""


def test_runs_that_diverge_are_worse_than_any_other(inputs: Path, tmp_path: Path) -> None:
    """Eleven steps that are not finite: one more than guard.non_finite_limit."""
    (tmp_path / "diverges.py").write_text(DIVERGES)
    launch = f"{sys.executable} {tmp_path / 'diverges.py'}"
    words = ("--search", "optimizer.learning_rate=1e-3,2e-3", "--most", "3")
    call = _tune(inputs, tmp_path / "out", *words, launch=launch)
    assert call.status == 1, call.said
    assert "no value between worse ones in 3 runs" in call.said
    found = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert found["searches"][0]["trials"] == [
        {"value": value, "loss": None} for value in (5e-4, 1e-3, 2e-3)
    ]
    assert (found["searches"][0]["best"], found["best"]) == (None, [])
    again = _tune(inputs, tmp_path / "out", *words, launch=launch)
    assert "training" not in again.said, "a run that diverged is not repeated"


def test_the_table_names_the_best() -> None:
    trials = [
        Trial(value=1e-3, loss=2.5),
        Trial(value=2e-3, loss=2.4),
        Trial(value=4e-3, loss=None),
    ]
    result = SearchResult(keys=("a", "b"), trials=trials, best=2e-3, bracketed=True)
    found = Tuning(
        recipe="r", overrides=(), steps=1, tokens=1, seed=1, mask_ratio=0.1, searches=[result]
    )
    cells = [list(column.cells) for column in render(found).columns]
    assert cells[0] == ["a+b", "", ""]
    assert cells[2] == ["2.5000", "2.4000", "diverged"]
    assert cells[3] == ["", "best", ""]


@pytest.mark.long
def test_two_keys_are_tuned_in_turn_and_continue(inputs: Path, tmp_path: Path) -> None:
    """Rates that are far too low and too high: the best is inside."""
    output = tmp_path / "out"
    words = (
        *("--search", "optimizer.learning_rate=1e-4,3e-3,1"),
        *("--search", "optimizer.weight_decay=1e-4,1e-3", "--most", "3", "--tokens", "11k"),
    )
    call = _tune(inputs, output, *words)
    found = json.loads((output / "tuning.json").read_text())
    rates, decays = found["searches"]
    assert rates["best"] == 3e-3, call.said
    assert rates["bracketed"]
    assert [trial["value"] for trial in rates["trials"]] == [1e-4, 3e-3, 1]
    assert found["best"][0] == "optimizer.learning_rate=0.003"
    assert len(decays["trials"]) == 3
    assert call.status == (0 if decays["bracketed"] else 1), call.said
    for trial in decays["trials"]:
        recipe = (output / f"2-optimizer.weight_decay/{trial['value']:g}/recipe.yaml").read_text()
        assert "learning_rate: 0.003" in recipe
    again = _tune(inputs, output, *words)
    assert "training" not in again.said
    assert json.loads((output / "tuning.json").read_text()) == found
