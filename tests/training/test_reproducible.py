"""Another grid, and a change of grid halfway, against slightly perturbed weights as a yardstick."""

from pathlib import Path

import numpy as np
import pytest

from tests.training import fault_injection
from tests.training.processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.training.small_run import options_for, step_losses

STEPS = 200
LONG = (
    "phases.pretrain.tokens=102400", "phases.extension.tokens=51200",
    "phases.decay.tokens=51200", "checkpoint.every_tokens=1M",
)  # fmt: skip


def losses(run: Path) -> np.ndarray:
    values = step_losses(run)
    assert sorted(values) == list(range(1, STEPS + 1))
    return np.array([values[step] for step in range(1, STEPS + 1)])


@pytest.fixture(scope="module")
def reference(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, float]:
    """Losses on two data ranks, and how far weights perturbed by 1e-7 take them in 200 steps."""
    folder = tmp_path_factory.mktemp("grids")
    options = options_for(inputs, folder / "reference", *LONG)
    assert run_to_the_end(options) == [0, 0], output_of(options)
    expected = losses(options.output)
    options = options_for(inputs, folder / "perturbed", *LONG)
    ranks = start_ranks(options, before=fault_injection.perturb_weights, arguments=(1e-7,))
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    yardstick = float(np.abs(losses(options.output) - expected).max())
    assert yardstick > 0
    return expected, yardstick


@pytest.mark.parametrize(
    ("name", "world_sizes", "overrides"),
    [
        ("one rank", (1,), ()),
        ("two tensor ranks", (2,), ("parallel.tensor=2",)),
        ("ZeRO 3 halfway on one rank", (2, 1), ("parallel.zero_stage=3",)),
    ],
)
def test_another_grid_differs_no_more_than_perturbed_weights(
    inputs: Path, reference: tuple[np.ndarray, float], tmp_path: Path,
    name: str, world_sizes: tuple[int, ...], overrides: tuple[str, ...],
) -> None:  # fmt: skip
    expected, yardstick = reference
    for number, world_size in enumerate(world_sizes):
        last = number + 1 == len(world_sizes)
        options = options_for(
            inputs, tmp_path / "run", *LONG, *overrides,
            stop_after_phase=None if last else "pretrain",
        )  # fmt: skip
        statuses = run_to_the_end(options, world_size=world_size)
        assert statuses == [0] * world_size, output_of(options)
    difference = float(np.abs(losses(tmp_path / "run") - expected).max())
    print(f"{name}: losses differ by at most {difference:.2e}, perturbed by 1e-7: {yardstick:.2e}")
    assert difference <= 3 * yardstick
