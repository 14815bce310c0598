"""Search for the value of the lowest loss, from low values up until both neighbors are worse."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmbert.errors import ArgumentError

_EXAMPLE = "write it as optimizer.learning_rate=1e-4,2e-4,4e-4; KEY+KEY=… gives both keys the value"


@dataclass(frozen=True)
class Search:
    """Keys of the recipe that get the same value, and the values to begin with, ascending."""

    keys: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """The keys, joined as on the command line."""
        return "+".join(self.keys)

    def overrides(self, value: float) -> tuple[str, ...]:
        """Return the overrides of a value."""
        return tuple(f"{key}={value!r}" for key in self.keys)


def parse_search(text: str) -> Search:
    """Parse `KEY[+KEY…]=V1,V2,…`.

    Raises:
        ArgumentError: there are fewer than two values, or they are not positive and ascending.
    """
    names, _, listed = text.partition("=")
    keys = tuple(names.split("+"))
    try:
        values = tuple(float(value) for value in listed.split(","))
    except ValueError as error:
        raise ArgumentError(
            f"--search '{text}': '{listed}' is not a list of numbers", remedy=_EXAMPLE
        ) from error
    ascending = all(low < high for low, high in itertools.pairwise(values))
    if (
        not all(keys)
        or len(values) < 2
        or not ascending
        or not values[0] > 0
        or math.isinf(values[-1])
    ):
        raise ArgumentError(
            f"--search '{text}' needs a key and two or more positive values, ascending",
            remedy=_EXAMPLE,
        )
    return Search(keys, values)


def next_value(values: Sequence[float], losses: Mapping[float, float]) -> float | None:
    """Return the value to try next; None if the best one has a worse one on both sides.

    Values are tried from the lowest up until the loss rises. Beyond the ends of the list, steps are
    the factor between the last two values there. A plateau at high values, as of a model that
    predicts frequencies alone, is thus never entered if the loss rises before it.

    Args:
        values: ascending, at least two.
        losses: those tried so far; infinite where training diverged.
    """
    if not losses:
        return values[0]
    tried = sorted(losses)
    best = min(tried, key=lambda value: losses[value])
    if best == tried[-1]:
        higher = [value for value in values if value > best]
        return higher[0] if higher else _rounded(best * values[-1] / values[-2])
    if best == tried[0]:
        return _rounded(best * values[0] / values[1])
    return None


def search(
    values: Sequence[float], loss_of: Callable[[float], float], most: int
) -> dict[float, float]:
    """Try values until the best is bracketed, or `most` are tried; return losses by value."""
    losses: dict[float, float] = {}
    while len(losses) < most and (value := next_value(values, losses)) is not None:
        losses[value] = loss_of(value)
    return losses


def _rounded(value: float) -> float:
    """Return six digits, without the noise of a product."""
    return float(f"{value:.6g}")
