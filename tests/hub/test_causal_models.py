"""Models whose training ended in a causal phase: refused by name, or marked if they are wanted."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.hub.configuration import read_configuration
from mmbert.hub.export import export_checkpoint
from mmbert.hub.fill_mask import fill_masks
from mmbert.merging.merge import MergeOptions, merge_models
from tests.support.written_runs import Run, causal_recipe, save_run


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of the causal phase, and one of the masked phase after it."""
    folder = tmp_path_factory.mktemp("causal") / "run"
    save_run(folder, run.model, phase="first", step=20, of=causal_recipe())
    save_run(folder, run.model, phase="last", step=30, of=causal_recipe())
    return folder


@pytest.fixture(scope="module")
def causal(folder: Path) -> Path:
    return folder / "checkpoints" / "step-00000020"


@pytest.fixture(scope="module")
def exported(causal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "causal"
    arguments = ["export", str(causal), str(out)]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, UserError)
    assert not out.exists()
    allowed = CliRunner().invoke(app, [*arguments, "--allow-causal"])
    assert allowed.exit_code == 0, allowed.output
    return out


def test_it_is_refused_with_the_remedy(causal: Path, exported: Path, tmp_path: Path) -> None:
    for path in (causal, exported):
        with pytest.raises(UserError, match="ended its training in a causal phase") as refused:
            export_checkpoint(path, tmp_path / "out")
        assert "train a masked phase after it" in refused.value.remedy
        assert "--allow-causal" in refused.value.remedy


def test_a_wanted_one_says_so(exported: Path) -> None:
    assert json.loads((exported / "config.json").read_text())["mmbert_objective"] == "causal"
    assert json.loads((exported / "provenance.json").read_text())["objective"] == "causal"
    card = (exported / "README.md").read_text()
    assert "**Its training ended in a causal phase.**" in card
    assert "pipeline_tag: fill-mask" not in card
    assert read_configuration(exported).objective == "causal"
    assert AutoConfig.from_pretrained(exported).mmbert_objective == "causal"
    said: list[str] = []
    fill_masks(exported, ["the [MASK] runs past"], say=said.append)
    assert any("causal phase" in line for line in said)


def test_a_masked_phase_after_it_exports_as_ever(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_checkpoint(folder / "checkpoints" / "step-00000030", out)
    assert "mmbert_objective" not in (out / "config.json").read_text()
    assert "objective" not in json.loads((out / "provenance.json").read_text())
    card = (out / "README.md").read_text().partition("## Recipe")[0]
    assert "causal" not in card
    assert "pipeline_tag: fill-mask" in card
    said: list[str] = []
    fill_masks(out, ["the [MASK] runs past"], say=said.append)
    assert not any("causal" in line for line in said)


def test_another_value_in_a_configuration_is_refused(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mmbert_objective": "casual"}))
    with pytest.raises(UserError, match="mmbert_objective is 'casual'"):
        read_configuration(tmp_path)


def test_merges_ask_for_it_too(run: Run, folder: Path, causal: Path, tmp_path: Path) -> None:
    masked = folder / "checkpoints" / "step-00000030"
    linear, out = MergeOptions("linear"), tmp_path / "out"
    with pytest.raises(UserError, match="ended its training in a causal phase"):
        merge_models([causal, causal], out, linear)
    with pytest.raises(UserError, match="different objectives"):
        merge_models([causal, masked], out, linear, allow_causal=True)
    merge_models([causal, causal], out, linear, allow_causal=True)
    assert read_configuration(out).objective == "causal"
    # Masked variants may branch from the end of a causal phase.
    options = MergeOptions("ties")
    merge_models([masked, run.checkpoint], tmp_path / "ties", options, base=causal)
    assert read_configuration(tmp_path / "ties").objective == "masked"
