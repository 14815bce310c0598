"""Commands that list or copy packaged files."""

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli import app
from mmbert.errors import UserError
from mmbert.recipe import load_recipe
from tests.support.environment import ROOT


def _output(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_recipes_are_listed_and_printed(tmp_path: Path) -> None:
    listed = _output("recipes")
    assert re.search(r"^mmbert-base +mmBERT base: 307,786,240 parameters", listed, re.MULTILINE)
    assert "language lists: mmbert-110, mmbert-1833, mmbert-60" in listed
    (tmp_path / "mine.yaml").write_text(_output("recipes", "mmbert-small"))
    assert load_recipe(tmp_path / "mine.yaml") == load_recipe("mmbert-small")
    with pytest.raises(UserError, match="did you mean 'demo'"):
        _output("recipes", "demmo")


def test_slurm_scripts_are_copied_but_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "slurm"
    _output("slurm-scripts", str(folder))
    names = (path.relative_to(ROOT / "slurm") for path in (ROOT / "slurm").rglob("*.*"))
    files = sorted(str(name) for name in names if name.name != "site.yaml")
    assert files == [
        *("common.bash", "decay.sbatch", "evaluate.sbatch", "merge.sbatch", "preprocess.sbatch"),
        *("pretrain.sbatch", "sites/amd.yaml", "sites/nvidia.yaml", "submit.sh"),
    ]
    assert os.access(folder / "submit.sh", os.X_OK)
    for name in files:
        assert (folder / name).read_bytes() == (ROOT / "slurm" / name).read_bytes()
    (folder / "pretrain.sbatch").write_text("mine")
    with pytest.raises(UserError, match=r"common\.bash already exists"):
        _output("slurm-scripts", str(folder))
    assert (folder / "pretrain.sbatch").read_text() == "mine"
