"""An index that contradicts itself is refused, before memory is allocated for what it says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmbert.checkpoint.format import CheckpointDamagedError, Index
from tests.support.checkpoint_index import write_signed_index
from tests.support.environment import ROOT

SOUND = ROOT / "tests" / "fixtures" / "kept" / "run" / "checkpoints" / "step-00000018"
TABLE, NORM = "model.embeddings.tok_embeddings.weight", "model.embeddings.norm.weight"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (TABLE, {"shape": [2**63, 32]}, "ranges do not cover"),
        (TABLE, {"shape": [384, 2**63]}, "slices do not cover"),
        (TABLE, {"shape": [-384, 32]}, "greater than or equal to 0"),
        (TABLE, {"split_dimension": 2}, "no dimension 2"),
        (TABLE, {"shards": []}, "ranges do not cover"),
        (NORM, {"ranges": [[0, 64], [32, 0]]}, "ranges do not cover"),
        (TABLE, {"ranges": [[0, 383]]}, "ranges do not cover"),
        (TABLE, {"ranges": [[0, 192], [191, 383]]}, "ranges do not cover"),
        (NORM, {"start": -1}, "greater than or equal to 0"),
        (NORM, {"length": 31}, "slices do not cover"),
        (NORM, {"start": 1}, "slices do not cover"),
        (NORM, {"file": "rank-00001.safetensors"}, "rank-00001.safetensors is too small"),
        (NORM, {"file": "recipe.yaml", "bytes": 127}, "recipe.yaml is too small"),
    ],
)
def test_contradictions(tmp_path: Path, name: str, change: dict[str, Any], says: str) -> None:
    path = Path(shutil.copy(SOUND / "index.json", tmp_path))
    values = json.loads(path.read_text())
    parameter = values["parameters"][name]
    if "bytes" in change:
        values["files"]["recipe.yaml"]["bytes"] = change["bytes"]
    for place in (parameter, parameter["shards"][0], parameter["shards"][0]["slices"][0]):
        place.update({key: value for key, value in change.items() if key in place})
    write_signed_index(path, values)
    with pytest.raises(CheckpointDamagedError, match=says):
        Index.read(tmp_path)


def test_a_list_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(CheckpointDamagedError, match="cannot be read"):
        Index.read(tmp_path)
