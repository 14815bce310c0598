"""Periodic comparison of the ranks in a real run: every fault stops the run.

Two real ranks train the small run; in one of them a fault is injected that the loss does not show.
No checkpoint is due, so that only the recipe's setting triggers the comparison.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbert.recipe import parse_recipe
from tests.support import small_run
from tests.support.job_processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.support.small_run import options_for, step_losses

NORM = "model.layers.1.mlp_norm.weight"
EVERY = ("guard.sanity_every=2", "checkpoint.every_tokens=1M")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_inputs(tmp_path_factory.mktemp("inputs"))


def after_step(rank: int, victim: int, step: int, action: Callable[[Any], None]) -> None:
    """Make rank `victim` modify its engine's model after step `step`."""
    from mmbert.training import train_step

    original, count = train_step.StepRunner.run, 0

    def run(runner: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        outcome = original(runner, *arguments, **options)
        if rank == victim and count == step:
            with torch.no_grad():
                action(dict(runner._engine.module.named_parameters()))
        count += 1
        return outcome

    train_step.StepRunner.run = run  # type: ignore[method-assign]


def flip_a_bit_of_a_norm(parameters: dict[str, torch.Tensor]) -> None:
    parameters[NORM].view(torch.int32)[3] ^= 1


def flip_a_bit_of_a_linear(parameters: dict[str, torch.Tensor]) -> None:
    parameters["model.layers.0.mlp.Wi.weight"].view(torch.int32)[5, 7] ^= 1


def overflow(parameters: dict[str, torch.Tensor]) -> None:
    parameters["decoder.bias"][11] = float("inf")


def disown(parameters: dict[str, torch.Tensor]) -> None:
    parameters["head.dense.weight"].tensor_model_parallel = True  # type: ignore[attr-defined]


def other_rows(rank: int, victim: int, step: int) -> None:
    """From `step` on, shift the masked positions of rank `victim` by one."""
    from mmbert.training.components.data_feed import DataFeed

    original = DataFeed.next_rows

    def next_rows(feed: DataFeed, now: int, count: int) -> Any:
        rows = original(feed, now, count)
        if rank == victim and now >= step:
            length = len(rows[0].input_ids)
            rows = [
                replace(row, masked_positions=np.minimum(row.masked_positions + 1, length - 1))
                for row in rows
            ]
        return rows

    DataFeed.next_rows = next_rows  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("tensor", "fault", "message"),
    [
        (2, flip_a_bit_of_a_norm, f"replicated parameters on tensor ranks differ: {NORM}"),
        (1, flip_a_bit_of_a_linear, "parameters on data ranks differ: model.layers.0.mlp.Wi"),
        (1, overflow, "not finite: decoder.bias"),
        (2, disown, "gradient of head.dense.weight: the norm counts 2048 elements"),
    ],
)
def test_a_fault_stops_the_run_at_the_next_comparison(
    inputs: Path, tmp_path: Path, tensor: int, fault: Callable[[Any], None], message: str
) -> None:
    options = options_for(inputs, tmp_path / "run", f"parallel.tensor={tensor}", *EVERY)
    # Step 5 is the sixth step, after which the ranks are compared.
    ranks = start_ranks(options, before=after_step, arguments=(1, 5, fault))
    assert exit_statuses(ranks) == [1, 1], output_of(options)
    assert message in output_of(options)
    assert "SanityError" in output_of(options)
    assert list((options.output / "checkpoints").glob("step-*")) == []


def test_a_tensor_rank_that_sees_other_rows_stops_the_run(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path / "run", "parallel.tensor=2", *EVERY)
    ranks = start_ranks(options, before=other_rows, arguments=(1, 3))
    assert exit_statuses(ranks) == [1, 1], output_of(options)
    assert "rows on tensor ranks differ: row" in output_of(options)


def test_sound_runs_are_not_disturbed(inputs: Path, tmp_path: Path) -> None:
    """The losses are the same with and without the comparison, also for ZeRO 3."""
    losses = []
    for name, more in (("off", ()), ("on", EVERY), ("zero 3", (*EVERY, "parallel.zero_stage=3"))):
        options = options_for(inputs, tmp_path / name, *more, stop_after_phase="pretrain")
        assert run_to_the_end(options) == [0, 0], output_of(options)
        losses.append(step_losses(options.output))
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert parse_recipe(small_run.RECIPE).guard.sanity_every is None
