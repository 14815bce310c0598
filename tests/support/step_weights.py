"""A stand-in for an engine in checkpoint tests; all its weights equal the step number."""

from collections.abc import Iterator
from pathlib import Path

import torch

from mmbert.checkpoint.reader import CheckpointReader
from mmbert.checkpoint.store import CheckpointStore
from mmbert.parallel.parameter_spec import InitialDistribution, ParameterSpec
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_fragment import MASTER, ParameterFragment, RowState
from mmbert.recipe.optimizers import OPTIMIZER_STATES

ONES = InitialDistribution("ones")
# Tensors per parameter in a checkpoint with StableAdamW.
STATES = (MASTER, *OPTIMIZER_STATES["stable_adamw"]["rest"])


class StepWeights:
    """`layers` weights of `length` elements each, on one rank."""

    def __init__(self, layers: int = 8, length: int = 16_384) -> None:
        self.device, self.zero_stage, self.steps_taken = torch.device("cpu"), 1, 0
        self.grid = ProcessGrid.single()
        self._layers, self._length = layers, length

    def fragments(self) -> Iterator[ParameterFragment]:
        for number in range(self._layers):
            states = {
                state: torch.full((self._length,), float(self.steps_taken)) for state in STATES
            }
            spec = ParameterSpec((self._length,), ONES, name=f"layer{number}.weight")
            yield ParameterFragment(spec, 0, 1, 0, self._length, states)

    def row_states(self) -> tuple[RowState, ...]:
        return ()


def newest_step(root: Path) -> int:
    """Return the newest checkpoint's step, after verifying the checkpoint and all its values."""
    store = CheckpointStore(root)
    newest = store.latest_valid()
    assert newest is not None
    assert newest == store.list()[-1], "what has its name must be whole"
    with CheckpointReader(newest) as reader:
        state = reader.index.state
        for name in reader.index.parameters:
            for kind in STATES:
                assert (reader.full(name, kind) == state.step).all(), (newest, name, kind)
    return state.step
