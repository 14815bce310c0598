"""The training job on one GPU in bfloat16: training, resuming, device metrics."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import build_grid
from mmbert.training.engine.engine import Engine
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.train_step import StepRunner
from tests.support.environment import ROOT, on_a_gpu
from tests.support.gpu_step_models import join_a_group_of_one
from tests.support.packed_rows import packed_rows
from tests.support.prescribed_gradients import recipe
from tests.support.small_run import log_of, step_losses
from tests.support.step_settings import make_settings
from tests.support.tiny_models import BASES, tiny_config


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["stable_adamw", "normuon"])
def test_on_a_gpu_it_trains_and_continues(optimizer: str, inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable, str(ROOT / "launch" / "pretrain.py"), "--recipe",
        str(inputs / "recipe.yaml"), "--data", str(inputs / "shards"), "--output", str(run),
        "precision=bfloat16", "model.hidden_size=64", "model.intermediate_size=64",
        "batch.row_tokens=512", f"optimizer.name={optimizer}",
    ]  # fmt: skip
    for stop in (["--stop-after-phase", "pretrain"], []):
        done = subprocess.run(
            [*command, *stop], env=on_a_gpu(), capture_output=True, text=True, timeout=500
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


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("stage", "optimizer"),
    [(1, "stable_adamw"), (2, "stable_adamw"), (3, "stable_adamw"), (1, "normuon")],
)
def test_the_host_waits_for_the_gpu_once_a_step(stage: int, optimizer: str) -> None:
    """Counted by PyTorch (engine/test_host_sync.py counts without a GPU)."""
    device = torch.device("cuda", 0)
    join_a_group_of_one(device)
    grid = build_grid(tensor_parallel=1)
    settings = recipe(parallel__zero_stage=stage, precision="bfloat16", optimizer__name=optimizer)
    config = tiny_config(hidden_size=256)
    model = MaskedLanguageModel(config, grid.tensor, sequence_parallel=False)
    initialize_parameters(model, seed=21)
    engine = Engine(model.to(device), settings, grid, device)
    runner = StepRunner(
        engine, dropout_seed=3, meter=LossMeter(1, device), step_timer=StepTimer(device)
    )
    rows = packed_rows(3, tokens=512, context=128, mask_ratio=0.3, vocabulary=131)
    step = engine.optimizer_step
    waits: list[str] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = step(*arguments, **options)
        torch.cuda.set_sync_debug_mode("error")
        waits.extend(str(w.message) for w in caught if "synchroniz" in str(w.message))
        return report

    def run() -> None:
        runner.run(
            rows,
            make_settings(1e-3, 0.1, rotary_bases=BASES, dropout=0.1),
            pending_requests=LoopRequests,
        )

    for _ in range(3):  # builds tables, compiles kernels, allocates memory
        run()
    engine.optimizer_step = counted  # type: ignore[method-assign]
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        engine.close()
    assert len(waits) == 1, waits
