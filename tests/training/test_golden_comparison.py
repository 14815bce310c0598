"""The comparison of `make golden` notices differences.

`make golden` compares the losses of all grids, test_loop.py those of one.
"""

import json
import math

from tests.support.small_run import STEPS
from tests.training.golden import FILE, GRIDS, differences

GOLDEN = {"one rank": [5.5, 5.25, 5.125]}


def test_equal_losses_pass_and_the_last_bit_does_not() -> None:
    assert differences(GOLDEN, {"one rank": [5.5, 5.25, 5.125]}, 0.0) == []
    off = [5.5, 5.25, math.nextafter(5.125, 6)]
    assert differences(GOLDEN, {"one rank": off}, 0.0)[0].startswith("one rank: step 3")
    assert differences(GOLDEN, {"one rank": off}, 1e-4) == []


def test_a_loss_that_is_no_number_or_missing_differs() -> None:
    assert differences(GOLDEN, {"one rank": [5.5, math.nan, 5.125]}, 1e-4)
    assert differences(GOLDEN, {"one rank": [5.5, 5.25]}, 1e-4)


def test_the_committed_losses_are_of_every_grid_and_step() -> None:
    committed = json.loads(FILE.read_text())["losses"]
    assert list(committed) == list(GRIDS)
    assert {name: len(losses) for name, losses in committed.items()} == dict.fromkeys(GRIDS, STEPS)
