"""Merging a run by its recipe selects the right checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmbert.checkpoint.store import CheckpointStore, RunState
from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.merging.merge_run import merge_run
from mmbert.recipe import dump_recipe, parse_recipe
from mmbert.schedule import training_plan
from tests.merging.test_merge import changed
from tests.support.tokenizers import metaspace_tokenizer, save_described_tokenizer
from tests.support.written_runs import RECIPE, EngineOfOneRank, Run

VARIANTS = """
variants:
  - {name: english, branch_from: first, overrides: {phases.last.languages: [eng]}}
  - {name: more, branch_from: first, overrides: {phases.last.languages: [eng, deu]}}
"""
PLAN = training_plan(parse_recipe(RECIPE))
END, BRANCH = PLAN.steps, PLAN.phases[0].end_step


def save(run: Run, folder: Path, merge: str, *, step: int, phase: str, seed: int) -> None:
    state = RunState(
        step=step,
        tokens=step * 2048,
        phase=phase,
        recipe=dump_recipe(parse_recipe(RECIPE + VARIANTS + f"merge: {merge}\n")),
        tokenizer="tokenizer",
        phase_end=True,
    )
    if not (folder / "tokenizer").exists():
        save_described_tokenizer(folder / "tokenizer", metaspace_tokenizer())
    store = CheckpointStore(folder / "checkpoints", asynchronous=False)
    store.save(EngineOfOneRank(changed(run, seed)), state)


def provenance(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "provenance.json").read_text()))


def test_ties_of_the_variants_onto_where_they_branched(run: Run, tmp_path: Path) -> None:
    merge = "{method: ties, variants: [main, english], density: 0.7, weights: [1, 3]}"
    folder = tmp_path / "run"
    save(run, folder, merge, step=BRANCH, phase="first", seed=0)
    save(run, folder, merge, step=BRANCH + 3, phase="last", seed=1)
    save(run, folder, merge, step=END, phase="last", seed=2)
    with pytest.raises(UserError, match=r"variants/english has no checkpoints") as caught:
        merge_run(folder, tmp_path / "out")
    assert "--variant english" in caught.value.remedy
    variant = folder / "variants" / "english"
    save(run, variant, merge, step=END - 1, phase="last", seed=3)
    with pytest.raises(UserError, match=rf"unfinished \(step {END - 1} of {END}\)"):
        merge_run(folder, tmp_path / "out")
    save(run, variant, merge, step=END, phase="last", seed=4)
    merge_run(folder, tmp_path / "out")
    found = provenance(tmp_path / "out")
    assert [(m["weight"], m["step"]) for m in found["models"]] == [(1.0, END), (3.0, END)]
    assert "english" in found["models"][1]["path"]
    assert (found["density"], found["base"]["step"]) == (0.7, BRANCH)


def test_average_of_the_last_phase(run: Run, tmp_path: Path) -> None:
    merge, folder = "{method: ema, decay: 0.5}", tmp_path / "run"
    save(run, folder, merge, step=BRANCH, phase="first", seed=0)
    save(run, folder, merge, step=BRANCH + 2, phase="last", seed=1)
    with pytest.raises(UserError, match="has only 1 checkpoints of phase last"):
        merge_run(folder, tmp_path / "out")
    save(run, folder, merge, step=END, phase="last", seed=2)
    merge_run(folder, tmp_path / "out")
    weights = [(m["step"], m["weight"]) for m in provenance(tmp_path / "out")["models"]]
    assert weights == [(BRANCH + 2, pytest.approx(1 / 3)), (END, pytest.approx(2 / 3))]


@pytest.mark.parametrize("as_folder", [True, False])
def test_ema_of_a_run_takes_the_checkpoints_of_its_last_phase(
    run: Run, tmp_path: Path, as_folder: bool
) -> None:
    """Averaging over a phase end would mix rotary bases; the checkpoints left out are named."""
    folder = tmp_path / "run"
    places = [(BRANCH, "first"), (BRANCH + 2, "last"), (END, "last")]
    for number, (step, phase) in enumerate(places):
        save(run, folder, "{method: ema}", step=step, phase=phase, seed=number)
    kept = CheckpointStore(folder / "checkpoints").list()
    models = [folder] if as_folder else kept
    command = ["merge", *map(str, models), "--method", "ema", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"left out {kept[0]}: it is of phase first, not last" in result.output
    assert [m["step"] for m in provenance(tmp_path / "out")["models"]] == [BRANCH + 2, END]


def test_a_recipe_without_merge(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no `merge`"):
        merge_run(run.folder, tmp_path / "out")
    with pytest.raises(UserError, match="has no checkpoints"):
        merge_run(tmp_path, tmp_path / "out")
