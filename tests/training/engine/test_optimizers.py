"""Registry of optimizers: names and states agree with the recipe."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from mmbert.checkpoint.reader import CheckpointReader
from mmbert.checkpoint.store import CheckpointStore, RunState
from mmbert.errors import UserError
from mmbert.recipe.optimizers import OPTIMIZER_STATES, ROW_STATES, OptimizerName
from mmbert.training.engine.optimizers import OPTIMIZERS, build_optimizer
from tests.support.prescribed_gradients import SPECS, prescribed_engine, recipe, start
from tests.support.ranks import run_ranks
from tests.support.step_weights import StepWeights


def test_every_name_of_the_recipe_has_an_optimizer() -> None:
    assert set(get_args(OptimizerName)) == OPTIMIZERS.keys() == OPTIMIZER_STATES.keys()


def test_states_that_the_planner_does_not_count_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_adamw = OPTIMIZER_STATES["adamw"] | {"matrices": ("exp_avg",)}
    monkeypatch.setitem(OPTIMIZER_STATES, "adamw", of_adamw)
    model: Any = torch.nn.Module()
    monkeypatch.setitem(OPTIMIZERS, "adamw", lambda *_: OPTIMIZERS["stable_adamw"](*_))
    model.weight = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="adamw keeps"):
        build_optimizer(
            model,
            recipe(optimizer__name="adamw").optimizer,
            torch.device("cpu"),
            torch.float32,
        )


def bytes_kept(rank: int, world_size: int) -> dict[str, tuple[int, int]]:
    """Return by optimizer the bytes of all fragments, and those that the planner counts."""
    kept = {}
    for name in OPTIMIZERS:
        engine = prescribed_engine(start(rank, world_size, 1), optimizer__name=name)
        held = sum(t.nbytes for f in engine.fragments() for t in f.states.values())
        rows = {r.state for r in engine.row_states()}
        assert rows == set(ROW_STATES.get(name, ())), name
        optimizer = recipe(optimizer__name=name).optimizer
        planned = sum(
            optimizer.bytes_of(d.group) * torch.Size(d.full_shape).numel() for d in SPECS.values()
        )
        kept[name] = (held, planned)
        engine.close()
    return kept


def test_what_is_kept_is_what_the_planner_counts() -> None:
    for name, (held, planned) in run_ranks(bytes_kept, 1)[0].items():
        assert held == planned, name


def test_a_checkpoint_of_an_optimizer_with_other_states_is_refused_by_name(tmp_path: Path) -> None:
    state = RunState(step=0, tokens=0, phase="only", recipe="")
    path = CheckpointStore(tmp_path, asynchronous=False).save(StepWeights(layers=1), state)
    with CheckpointReader(path) as reader, pytest.raises(UserError, match="has no momentum of"):
        reader.full("layer0.weight", "momentum")
