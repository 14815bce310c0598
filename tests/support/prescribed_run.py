"""Steps with prescribed gradients, and the full states of engines and checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmbert.checkpoint.reader import CheckpointReader
from mmbert.checkpoint.store import RunState
from mmbert.training.engine.engine import Engine
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedBatch,
    gather_full,
    seeded,
)
from tests.support.step_settings import make_settings
from tests.support.step_weights import STATES

Array = npt.NDArray[np.float32]


def train(engine: Engine, first: int, last: int) -> None:
    """Train steps [first, last); the gradients depend only on the step numbers."""
    rank, parts = engine.grid.data.rank, engine.grid.data.size
    for step in range(first, last):
        for micro in range(rank, 4, parts):
            gradients = {
                name: torch.randn(spec.full_shape, generator=seeded(f"{name} {step} {micro}"))
                for name, spec in SPECS.items()
            }
            engine.forward_backward(
                PrescribedBatch(gradients), make_settings(), dropout_seed=None, loss_scale=0.25
            )
        assert engine.optimizer_step(make_settings(1e-2, 0.1)).finite


def state_at(step: int, **changes: Any) -> RunState:
    values = {"step": step, "tokens": 64 * step, "phase": "only", "recipe": "name: test\n"}
    return RunState(**(values | {"data": {"position": step}} | changes))


def all_states(engine: Engine) -> dict[str, Array]:
    """Return full master weights and states by "NAME/STATE".

    As NumPy arrays, since torch's shared memory does not outlive its rank.
    """
    return {
        f"{name}/{state}": tensor.numpy()
        for state in STATES
        for name, tensor in gather_full(engine, state).items()
    }


def all_saved(path: Path) -> dict[str, Array]:
    with CheckpointReader(path) as reader:
        return {
            f"{name}/{state}": reader.full(name, state).numpy()
            for state in STATES
            for name in reader.index.parameters
        }


def assert_bits_equal(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name
