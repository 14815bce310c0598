"""Benchmark of checkpoints of a model of a given size on real ranks.

    python -m tests.benchmarks.bench_checkpoint --parameters 300M --ranks 1 --folder /local/disk

Prints a line per save with the time that the step waited (staging), the time of writing and commit
during training, and the rates; then the time to verify and load the latest. The model is one
matrix per rank's worth of parameters with ZeRO 1: 12 bytes per parameter are copied and written, as
in a real run.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.checkpoint.store import CheckpointStore, RunState
from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    empty_parameter,
    name_parameters,
)
from mmbert.parallel.process_grid import TensorGroup
from mmbert.recipe import parse_quantity
from mmbert.training.engine.engine import Engine
from tests.support.prescribed_gradients import recipe, start
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings

WIDTH = 1024


class Wide(nn.Module):
    """Matrices of 1,024 columns; the loss uses one element of each, so that steps are cheap."""

    def __init__(self, parameters: int, group: TensorGroup) -> None:
        super().__init__()
        ones = InitialDistribution("ones")
        self.matrices = nn.ParameterList(
            empty_parameter(ParameterSpec((rows, WIDTH), ones), group) for rows in _rows(parameters)
        )
        name_parameters(self)
        with torch.no_grad():
            for matrix in self.matrices:
                matrix.normal_(std=0.02)

    def forward(self, batch: Any, **_: Any) -> Tensor:
        return torch.stack([matrix[0, 0] for matrix in self.matrices])


def _rows(parameters: int) -> list[int]:
    """Return rows as in base: two thirds in the embedding, the rest in 22 layers."""
    table = 2 * parameters // 3 // WIDTH
    return [table, *[(parameters // WIDTH - table) // 22] * 22]


def measure(
    rank: int, world_size: int, parameters: int, folder: Path, saves: int, zero_stage: int
) -> list[dict[str, float]]:
    """Measure every save and the load on rank 0."""
    torch.manual_seed(0)
    grid = start(rank, world_size, 1)
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    model = Wide(parameters, grid.tensor)
    total = sum(parameter.numel() for parameter in model.parameters())
    engine = Engine(
        model.to(device),
        recipe(precision="bfloat16", parallel__zero_stage=zero_stage),
        grid,
        device,
    )
    store, figures = CheckpointStore(folder, keep_last=1), []
    store.prepare(engine)
    for step in range(saves):
        engine.forward_backward(None, make_settings(), dropout_seed=None, loss_scale=1.0)
        engine.optimizer_step(make_settings(1e-3, 0.0))
        path = store.save(engine, RunState(step=step, tokens=0, phase="only", recipe=""))
        waited, begin = store.blocked_seconds, time.monotonic()
        store.wait()
        written = time.monotonic() - begin
        size = sum(file.stat().st_size for file in path.iterdir())
        figures.append({"waited": waited, "written": written, "bytes": size, "parameters": total})
    begin = time.monotonic()
    newest = store.latest_valid()
    checked, begin = time.monotonic() - begin, time.monotonic()
    assert newest is not None
    store.load(engine, newest)
    figures.append({"checked": checked, "loaded": time.monotonic() - begin})
    return figures


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parameters", default="300M", type=parse_quantity)
    parser.add_argument("--ranks", default=1, type=int)
    parser.add_argument("--zero-stage", default=1, type=int)
    parser.add_argument("--saves", default=3, type=int)
    parser.add_argument("--folder", default=None, type=Path, help="where to write (local disk)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        arguments = (options.parameters, Path(folder), options.saves, options.zero_stage)
        figures = run_ranks(measure, options.ranks, *arguments, timeout=1800)[0]
    if options.json:
        print(json.dumps(figures))
        return
    *saves, load = figures
    for number, save in enumerate(saves):
        gigabytes = save["bytes"] / 1e9
        print(
            f"save {number}: {save['parameters'] / 1e6:.0f}M parameters, {gigabytes:.2f} GB; "
            f"the step waited {save['waited']:.2f} s, "
            f"then written in {save['written']:.1f} s ({gigabytes / save['written']:.2f} GB/s)"
        )
    print(f"latest valid one found in {load['checked']:.1f} s, loaded in {load['loaded']:.1f} s")


if __name__ == "__main__":
    main()
