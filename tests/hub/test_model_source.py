"""Checkpoints whose index contradicts the recipe inside it are refused, not guessed at."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmbert.errors import CheckpointError
from mmbert.hub.model_source import open_model
from tests.support.checkpoint_index import write_signed_index
from tests.support.environment import ROOT

SOUND = ROOT / "tests" / "fixtures" / "kept" / "run" / "checkpoints" / "step-00000018"


def _other_phase(values: dict[str, Any]) -> None:
    values["state"]["phase"] = "dekay"


def _no_embedding(values: dict[str, Any]) -> None:
    del values["parameters"]["model.embeddings.tok_embeddings.weight"]


def _no_norm(values: dict[str, Any]) -> None:
    del values["parameters"]["model.final_norm.weight"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_other_phase, "no phase 'dekay' in its recipe"),
        (_no_embedding, "no embedding"),
        (_no_norm, "parameters do not match the model of its recipe: model.final_norm.weight"),
    ],
)
def test_contradictions(tmp_path: Path, change: Any, says: str) -> None:
    folder = Path(shutil.copytree(SOUND, tmp_path / SOUND.name))
    values = json.loads((folder / "index.json").read_text())
    change(values)
    write_signed_index(folder / "index.json", values)
    with pytest.raises(CheckpointError, match=says):
        open_model(folder)
