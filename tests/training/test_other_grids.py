"""Another grid, and a change of grid halfway, against slightly perturbed weights as a yardstick."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.support.small_run import options_for, step_losses


@dataclass(frozen=True)
class Reference:
    """Losses on two data ranks, and how far weights perturbed by 1e-7 take them."""

    steps: int
    losses: np.ndarray
    yardstick: float


def length(steps: int) -> tuple[str, ...]:
    """Overrides for a run of so many steps of 1,024 tokens, half of them in the first phase."""
    half, quarter = 1024 * steps // 2, 1024 * steps // 4
    return (
        *(f"phases.pretrain.tokens={half}", f"phases.extension.tokens={quarter}"),
        *(f"phases.decay.tokens={quarter}", "checkpoint.every_tokens=1M"),
    )


def losses(run: Path, steps: int) -> np.ndarray:
    values = step_losses(run)
    assert sorted(values) == list(range(1, steps + 1))
    return np.array([values[step] for step in range(1, steps + 1)])


@pytest.fixture(scope="module", params=[60, pytest.param(200, marks=pytest.mark.long)])
def reference(
    inputs: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Reference:
    folder, steps = tmp_path_factory.mktemp("grids"), request.param
    options = options_for(inputs, folder / "reference", *length(steps))
    assert run_to_the_end(options) == [0, 0], output_of(options)
    expected = losses(options.output, steps)
    options = options_for(inputs, folder / "perturbed", *length(steps))
    ranks = start_ranks(options, before=fault_injection.perturb_weights, arguments=(1e-7,))
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    yardstick = float(np.abs(losses(options.output, steps) - expected).max())
    assert yardstick > 0
    return Reference(steps, expected, yardstick)


@pytest.mark.parametrize(
    ("name", "world_sizes", "overrides"),
    [
        ("one rank", (1,), ()),
        ("two tensor ranks", (2,), ("parallel.tensor=2",)),
        ("ZeRO 3 halfway on one rank", (2, 1), ("parallel.zero_stage=3",)),
    ],
)
def test_another_grid_differs_no_more_than_perturbed_weights(
    inputs: Path, reference: Reference, tmp_path: Path,
    name: str, world_sizes: tuple[int, ...], overrides: tuple[str, ...],
) -> None:  # fmt: skip
    for number, world_size in enumerate(world_sizes):
        last = number + 1 == len(world_sizes)
        options = options_for(
            inputs, tmp_path / "run", *length(reference.steps), *overrides,
            stop_after_phase=None if last else "pretrain",
        )  # fmt: skip
        statuses = run_to_the_end(options, world_size=world_size)
        assert statuses == [0] * world_size, output_of(options)
    yardstick = reference.yardstick
    difference = float(np.abs(losses(tmp_path / "run", reference.steps) - reference.losses).max())
    print(f"{name}: losses differ by at most {difference:.2e}, perturbed by 1e-7: {yardstick:.2e}")
    assert difference <= 3 * yardstick
