"""Two tensor ranks times two data ranks under ZeRO 1, 2 and 3 train as one process does.

The real engine with StableAdamW, float32, gloo, dropout on; four rows a step, two on each data
rank. At StableAdamW's first step `exp_avg` is the reduced gradient itself. After every step the
sanity checks of a real run look at all ranks.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from distributed import run_ranks
from mmbert.model.config import Recompute
from mmbert.parallel.sanity import require_sane_model
from mmbert.training.engine import Engine
from tests.model.tiny_models import BASES, random_row, tiny_config, tiny_model
from tests.training.prescribed import gather_full, recipe, start

STEPS, ROWS = 10, 4
# Sequence parallelism, ZeRO stage and recomputation of each run on the grid of four.
RUNS: list[tuple[bool, int, Recompute]] = [
    (True, 1, "none"),
    (False, 2, "none"),
    (True, 3, "selective"),
    (True, 3, "full"),
]
ALONE: tuple[bool, int, Recompute] = (False, 1, "none")


def train_on_rank(
    rank: int, world_size: int, tensor: int, runs: list[tuple[bool, int, Recompute]]
) -> list[dict[str, Any]]:
    """Per run: first losses by row, first gradient and its norm, and the last weights."""
    grid = start(rank, world_size, tensor)
    put_everything_away()
    results = []
    for sequence, stage, recompute in runs:
        model = tiny_model(
            tiny_config(recompute=recompute), grid.tensor, sequence_parallel=sequence
        )
        settings = recipe(
            parallel__tensor=tensor, parallel__sequence=sequence, parallel__zero_stage=stage
        )
        engine = Engine(model, settings, grid, torch.device("cpu"))
        if stage == 3:
            assert any(parameter.numel() == 0 for parameter in engine.module.parameters())
        result: dict[str, Any] = {"losses": {}}
        for step in range(STEPS):
            numbers = range(step * ROWS, (step + 1) * ROWS)
            masked = sum(random_row(seed=n).weights.sum().item() for n in numbers)
            for number in numbers:
                if number % grid.data.size != grid.data.rank:
                    continue
                losses = engine.forward_backward(
                    random_row(seed=number, row_index=number),
                    rotary_bases=BASES,
                    dropout_seed=7,
                    loss_scale=1 / masked,
                )
                if step == 0:
                    result["losses"][number] = losses.numpy()
            report = engine.optimizer_step(1e-3, 1e-2)
            if step == 0:
                result["norm"] = float(report.gradient_norm)
                result["gradient"] = as_numpy(gather_full(engine, "exp_avg"))
            partitions = None
            if stage == 3:
                partitions = {n: p.ds_tensor for n, p in engine.module.named_parameters()}
            require_sane_model(engine.module, grid, partitions=partitions)
        result["weights"] = as_numpy(gather_full(engine))
        engine.close()
        results.append(result)
    return results


def put_everything_away() -> None:
    """ZeRO 3 never puts small tensors away, which here are all of them, unless told to."""
    import deepspeed

    initialize = deepspeed.initialize

    def with_threshold(*, config: dict[str, Any], **arguments: Any) -> Any:
        zero = config["zero_optimization"] | {"stage3_param_persistence_threshold": 0}
        return initialize(config=config | {"zero_optimization": zero}, **arguments)

    deepspeed.initialize = with_threshold


def as_numpy(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


@cache
def alone() -> dict[str, Any]:
    return run_ranks(train_on_rank, 1, 1, [ALONE])[0][0]


@cache
def on_the_grid() -> dict[int, list[dict[str, Any]]]:
    return run_ranks(train_on_rank, 4, 2, RUNS, timeout=300)


def worst(got: dict[Any, np.ndarray], wanted: dict[Any, np.ndarray]) -> float:
    """The largest relative difference by norm."""
    return max(
        float(np.linalg.norm(array - wanted[name]) / np.linalg.norm(wanted[name]))
        for name, array in got.items()
    )


@pytest.mark.parametrize("run", range(len(RUNS)), ids=[f"{s}-{z}-{r}" for s, z, r in RUNS])
def test_two_by_two_trains_as_one_process(run: int) -> None:
    expected = alone()
    assert set(expected["losses"]) == set(range(ROWS))
    for rank, results in on_the_grid().items():
        result = results[run]
        assert set(result["losses"]) == {n for n in range(ROWS) if n % 2 == rank // 2}
        assert worst(result["losses"], expected["losses"]) < 1e-5
        assert result["norm"] == pytest.approx(expected["norm"], rel=1e-5)
        assert result["gradient"].keys() == expected["gradient"].keys()
        assert worst(result["gradient"], expected["gradient"]) < 1e-5
        assert worst(result["weights"], expected["weights"]) < 1e-4
