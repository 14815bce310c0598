"""Checkpoints of Muon and NorMuon: states of rows, other grids, and changes of the optimizer."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.reader import CheckpointReader, read_parameters, verify_checkpoint
from mmbert.checkpoint.resume_check import check_optimizer
from mmbert.checkpoint.store import CheckpointStore
from mmbert.errors import UserError
from mmbert.inspection.checkpoints import render_checkpoint
from mmbert.recipe import Recipe, dump_recipe, override_recipe
from mmbert.training.engine.engine import Engine
from tests.support.muon_formula import MATRICES, PARTS, Formula
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedBatch,
    prescribed_engine,
    recipe,
    seeded,
    start,
)
from tests.support.prescribed_run import state_at, train
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings

NORMUON = {"optimizer__name": "normuon"}


def full_states(path: Path) -> dict[str, Any]:
    """Return all full tensors of a checkpoint by "NAME/STATE", as NumPy arrays."""
    with CheckpointReader(path) as reader:
        found = {
            f"{name}/{state}": reader.full(name, state).numpy()
            for name in reader.index.parameters
            for state in ("master", "exp_avg", "exp_avg_sq")
            if reader.keeps(name, state)
        }
        for key, saved in reader.index.row_states.items():
            name, _, state = key.rpartition("/")
            found[key] = reader.rows(name, state, start=0, length=saved.shape[0]).numpy()
        return found


def save_and_go_on(
    rank: int, world_size: int, root: Path, tensor: int, changes: dict[str, Any]
) -> None:
    """Train three steps and save, then two more and save again."""
    engine = prescribed_engine(start(rank, world_size, tensor), **changes)
    store = CheckpointStore(root, asynchronous=False)
    for first, last in ((0, 3), (3, 5)):
        train(engine, first, last)
        text = dump_recipe(named(changes.get("optimizer__name", "stable_adamw")))
        store.save(engine, state_at(last, phase_end=last == 3, recipe=text))


def load_and_go_on(
    rank: int, world_size: int, source: Path, root: Path, tensor: int, changes: dict[str, Any]
) -> None:
    """Load the checkpoint of step three, save it again, and train two more steps and save."""
    engine = prescribed_engine(start(rank, world_size, tensor), **changes)
    store = CheckpointStore(root, asynchronous=False)
    assert store.load(engine, source / "step-00000003").step == 3
    store.save(engine, state_at(3, phase_end=True))
    train(engine, 3, 5)
    store.save(engine, state_at(5))


def assert_equal(one: Path, other: Path, tolerance: float = 0.0) -> None:
    found, wanted = full_states(one), full_states(other)
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        difference = abs(found[key] - values).max()
        assert difference <= tolerance * abs(values).max(), (key, difference)


def on_two_layouts(rank: int, world_size: int, root: Path) -> None:
    save_and_go_on(rank, world_size, root / "begun", 1, NORMUON | {"parallel__zero_stage": 1})
    for name, tensor, stage in (("same", 1, 1), ("other", 2, 3)):
        changes = NORMUON | {"parallel__zero_stage": stage}
        load_and_go_on(rank, world_size, root / "begun", root / name, tensor, changes)


def test_a_run_goes_on_to_the_bit_and_on_other_grids_within_rounding(tmp_path: Path) -> None:
    run_ranks(on_two_layouts, 2, tmp_path)
    begun, same, other = (tmp_path / name for name in ("begun", "same", "other"))
    assert_equal(same / "step-00000003", begun / "step-00000003")
    assert_equal(same / "step-00000005", begun / "step-00000005")
    assert_equal(other / "step-00000003", begun / "step-00000003")
    assert_equal(other / "step-00000005", begun / "step-00000005", 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["muon", "normuon"])
def test_a_checkpoint_goes_through_grids_and_stages(
    optimizer: str, precision: str, tmp_path: Path
) -> None:
    changes = {"optimizer__name": optimizer, "precision": precision}
    run_ranks(save_and_go_on, 4, tmp_path / "0", 2, changes | {"parallel__zero_stage": 2})
    grids = [(1, 1, 1), (4, 1, 3), (2, 2, 3), (1, 2, 2), (2, 1, 1), (1, 4, 1)]
    for number, (tensor, data, stage) in enumerate(grids, 1):
        source, root = tmp_path / str(number - 1), tmp_path / str(number)
        of_grid = changes | {"parallel__zero_stage": stage}
        run_ranks(load_and_go_on, tensor * data, source, root, tensor, of_grid)
        assert_equal(root / "step-00000003", tmp_path / "0" / "step-00000003")
        if precision == "float32":
            assert_equal(root / "step-00000005", tmp_path / "0" / "step-00000005", 1e-5)


def test_rows_are_no_parameters_and_other_indexes_are_as_before(tmp_path: Path) -> None:
    run_ranks(save_and_go_on, 2, tmp_path / "normuon", 1, NORMUON)
    path = tmp_path / "normuon" / "step-00000005"
    assert verify_checkpoint(path) is None
    index = Index.read(path)
    assert set(index.parameters) == set(SPECS) == {name for name, _ in read_parameters(path)}
    assert set(index.row_states) == {f"{name}/row_exp_avg_sq" for name in MATRICES}
    # One slice for each matrix, on its owner; both ranks own some.
    slices = [s for saved in index.row_states.values() for s in saved.shards[0].slices]
    assert sorted((s.start, s.length) for s in slices) == sorted((a, b - a) for _, (a, b) in PARTS)
    assert {s.file for s in slices} == {f"rank-0000{rank}.safetensors" for rank in range(2)}
    with CheckpointReader(path) as reader:
        for name in SPECS:
            assert reader.keeps(name, "exp_avg_sq") == (name not in MATRICES)
    text = io.StringIO()
    render_checkpoint(path, Console(file=text, width=200))
    states = "exp_avg and exp_avg_sq (matrices: exp_avg and row_exp_avg_sq)"
    assert f"each with a float32 master weight, {states}" in text.getvalue()
    assert "row_exp_avg_sq" not in text.getvalue().replace(states, "")
    run_ranks(save_and_go_on, 1, tmp_path / "muon", 1, {"optimizer__name": "muon"})
    values = json.loads((tmp_path / "muon" / "step-00000005" / "index.json").read_text())
    assert "row_states" not in values


def test_missing_rows_are_found_when_an_index_is_read(tmp_path: Path) -> None:
    run_ranks(save_and_go_on, 1, tmp_path, 1, NORMUON)
    path = tmp_path / "step-00000005"
    sound = Index.read(path)
    saved = sound.row_states["qkv.weight/row_exp_avg_sq"]
    slices = saved.shards[0].slices
    cut = saved.model_copy(
        update={"shards": (saved.shards[0].model_copy(update={"slices": slices[1:]}),)}
    )
    for wrong in ({"qkv.weight/row_exp_avg_sq": cut}, {"qkv/row_exp_avg_sq": saved},
                  {"gate.weight/row_exp_avg_sq": saved}):  # fmt: skip
        rows = dict(sound.row_states) | wrong
        (path / "index.json").write_bytes(sound.model_copy(update={"row_states": rows}).dump())
        with pytest.raises(UserError, match=r"is invalid"):
            Index.read(path)


def change_optimizer(rank: int, world_size: int, root: Path, before: str, names: list[str]) -> None:
    """Save the end of a phase; load it into other optimizers on another grid, and take a step."""
    save_and_go_on(rank, world_size, root, 1, {"optimizer__name": before})
    for name in names:
        engine = prescribed_engine(start(rank, world_size, 2), optimizer__name=name)
        # What a repeated start of the phase finds in the engine must not stay in it.
        train(engine, 0, 1)
        store = CheckpointStore(root / name, asynchronous=False)
        store.load(engine, root / "step-00000003")
        store.save(engine, state_at(3))
        one_step(engine)
        store.save(engine, state_at(4))
        engine.close()


def gradient(name: str) -> torch.Tensor:
    return torch.randn(SPECS[name].full_shape, generator=seeded(f"change {name}"))


def one_step(engine: Engine) -> None:
    """Take a step with gradients of one scale at a rate of 1e-2, without decay."""
    parts = engine.grid.data.size
    batch = PrescribedBatch({name: gradient(name) / parts for name in SPECS})
    engine.forward_backward(batch, make_settings(), dropout_seed=None, loss_scale=1.0)
    engine.optimizer_step(make_settings(1e-2, 0.0))


@pytest.mark.parametrize(
    "before", ["stable_adamw", "normuon", pytest.param("muon", marks=pytest.mark.long)]
)
def test_the_optimizer_changes_at_the_end_of_a_phase(before: str, tmp_path: Path) -> None:
    names = [name for name in ("stable_adamw", "muon", "normuon") if name != before]
    run_ranks(change_optimizer, 2, tmp_path, before, names)
    saved = full_states(tmp_path / "step-00000003")
    for after in names:
        begun, later = (full_states(tmp_path / after / f"step-0000000{step}") for step in (3, 4))
        for key, values in begun.items():
            wanted = saved.get(key)
            if wanted is None:  # what `before` did not keep
                assert key.rpartition("/")[2] in ("exp_avg_sq", "row_exp_avg_sq")
                assert (values == 0).all()
            else:
                assert (values == wanted).all(), key
        for name, (first, stop) in PARTS:
            states = {key: torch.from_numpy(saved[f"{name}/{key}"])[first:stop].double()
                      for key in ("master", "exp_avg")}  # fmt: skip
            wanted = step_from(states, gradient(name)[first:stop].double(), after)
            found = torch.from_numpy(later[f"{name}/master"])[first:stop].double()
            error = float((found - wanted).norm() / (states["master"] - wanted).norm())
            assert error < 1e-4, (before, after, name, error)


def step_from(states: dict[str, torch.Tensor], g: torch.Tensor, optimizer: str) -> torch.Tensor:
    """Return a matrix after the first step after the change, in float64.

    StableAdamW takes its fourth step, with v = 0 before it: its RMS clipping makes it the step that
    a bias-corrected v = g² gives.
    """
    if optimizer != "stable_adamw":
        matrix = Formula(states["master"], normalized=optimizer == "normuon")
        matrix.average = states["exp_avg"]
        matrix.step(g, 1e-2, 0.0)
        return matrix.weight
    settings, t = recipe().optimizer, 4
    b1, b2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in settings.betas)
    m = b1 * states["exp_avg"] + (1 - b1) * g
    # (g² / v)'s root mean square is 1 / sqrt(1 - b2): rate · m / sqrt(v) = rate · m / |g|.
    return states["master"] - 1e-2 * m / (g.abs() + settings.eps / (1 - b2) ** 0.5)


def refused_loads(rank: int, world_size: int, source: Path) -> dict[str, str]:
    grid, messages = start(rank, world_size, 1), {}
    for name in ("stable_adamw", "normuon"):
        engine = prescribed_engine(grid, optimizer__name=name)
        with pytest.raises(UserError) as raised:
            CheckpointStore(source).load(engine, source / "step-00000005")
        messages[name] = str(raised.value)
        engine.close()
    return messages


def test_states_of_another_kind_within_a_phase_are_refused(tmp_path: Path) -> None:
    run_ranks(save_and_go_on, 1, tmp_path, 1, {"optimizer__name": "muon"})
    messages = run_ranks(refused_loads, 1, tmp_path)[0]
    assert "has no exp_avg_sq of qkv.weight" in messages["stable_adamw"]
    assert "has no row_exp_avg_sq of qkv.weight" in messages["normuon"]


def named(name: str) -> Recipe:
    changes = {"optimizer.name": name, "optimizer.muon": None}
    return override_recipe(recipe(), changes)


@pytest.mark.parametrize(
    ("before", "after", "phase_end", "message"),
    [
        ("stable_adamw", "normuon", True, None),
        ("normuon", "stable_adamw", True, None),
        ("muon", "normuon", True, None),
        ("muon", "muon", False, None),
        ("stable_adamw", "normuon", False,
         "optimizer.name=stable_adamw, the recipe has optimizer.name=normuon, and it is not the "
         "end of a phase"),
        ("normuon", "muon", False, "optimizer.name=normuon, the recipe has optimizer.name=muon"),
        ("normuon", "adamw", True, "too large steps without the exp_avg_sq of matrices"),
        ("muon", "adamw", True, "which muon does not keep"),
    ],
)  # fmt: skip
def test_which_optimizer_may_follow(
    before: str, after: str, phase_end: bool, message: str | None
) -> None:
    state = state_at(3, phase_end=phase_end, recipe=dump_recipe(named(before)))
    if message is None:
        check_optimizer(named(after), state, Path("run/checkpoints/step-00000003"))
        return
    with pytest.raises(UserError, match=message) as raised:
        check_optimizer(named(after), state, Path("run/checkpoints/step-00000003"))
    assert raised.value.remedy is not None
    assert before in raised.value.remedy
