"""The main job on one GPU, in bfloat16: it trains, continues, and says what the device did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.small_run import log_of, step_losses

ROOT = Path(__file__).parents[2]


@pytest.mark.gpu
def test_on_a_gpu_it_trains_and_continues(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    environment["PYTHONPATH"] = os.pathsep.join(
        str(ROOT / part) for part in ("src", "kernels", "data_prep")
    )
    command = [
        sys.executable, str(ROOT / "launch" / "pretrain.py"), "--recipe",
        str(inputs / "recipe.yaml"), "--data", str(inputs / "shards"), "--output", str(run),
        "precision=bfloat16", "model.hidden_size=64", "model.intermediate_size=64",
        "batch.row_tokens=512",
    ]  # fmt: skip
    for stop in (["--stop-after-phase", "pretrain"], []):
        done = subprocess.run(
            [*command, *stop], env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
    losses = step_losses(run)
    assert sorted(losses) == list(range(1, len(losses) + 1))
    assert all(0 < loss < 7 for loss in losses.values())
    last = [entry for entry in log_of(run) if "step_loss" in entry][-1]
    assert last["time"]["forward"] > 0
    assert last["time"]["backward"] > 0
    assert last["peak_memory_mib"] > 1
    if any(kind in torch.cuda.get_device_name() for kind in ("H100", "H200", "A100", "B200")):
        assert 0 < last["mfu"] < 1
    assert json.loads((run / "results.json").read_text())["phases"][-1]["held_out_end"]
