"""Comparison of several runs of one step: whether they agree, and which ranks are wrong.

A row's loss depends on the weights and the row alone, so it is the same on any rank. Where it is
not, a device, its memory or its host computed wrongly. A fault that no row's loss shows, in a
backward pass or a reduction, changes the gradient norm only and cannot be attributed to a rank.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict


class Tolerance(BaseModel):
    """Largest relative differences between sound runs of the same step."""

    model_config = ConfigDict(frozen=True)

    loss: float = 0.0
    gradient_norm: float = 0.0

    def times(self, factor: float) -> "Tolerance":
        """Return both differences, multiplied by `factor`."""
        return Tolerance(loss=factor * self.loss, gradient_norm=factor * self.gradient_norm)


EXACT = Tolerance()


class RankLosses(BaseModel):
    """Losses of the rows of one rank in one run of a step."""

    model_config = ConfigDict(frozen=True)

    rank: int
    tensor_rank: int
    """Rank in its tensor group, whose ranks have the same rows."""
    host: str
    rows: dict[int, float]
    """Loss by row number, summed over the row's masked tokens."""


class StepRun(BaseModel):
    """One run of a step, on all ranks."""

    model_config = ConfigDict(frozen=True)

    loss: float
    gradient_norm: float
    """Infinite if a gradient was not finite."""
    ranks: tuple[RankLosses, ...]
    moved: bool = False
    """Whether each rank had the rows of another one. Then sums over ranks may differ in order."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Hosts of all ranks, without repetitions."""
        return tuple(dict.fromkeys(entry.host for entry in self.ranks))


class WrongRank(NamedTuple):
    """A rank that computed rows wrongly."""

    rank: int
    host: str
    runs: frozenset[int]
    """Numbers of the runs in which it did."""
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Verdict:
    """Result of comparing the runs of a step."""

    repeats: bool
    """Whether all runs agree: what the step showed comes from its data and weights."""
    wrong: tuple[WrongRank, ...] = ()
    hosts: tuple[str, ...] = ()
    """Hosts of the wrong ranks; all hosts if the runs differ but no rank's losses show where."""

    @property
    def suspect(self) -> str | None:
        """The only host on which the fault can be; None if there is no fault, or several hosts."""
        return self.hosts[0] if len(self.hosts) == 1 else None

    @property
    def failures(self) -> int:
        """Number of runs in which a rank was wrong."""
        return len(frozenset[int]().union(*(entry.runs for entry in self.wrong)))


def judge(runs: Sequence[StepRun], tolerance: Tolerance) -> Verdict:
    """Compare runs of a step with the same weights, in the order in which they were made.

    A loss that is not finite is wrong if any rank computed a finite one of the same row. Among
    finite losses, only a rank that contradicts itself is blamed: ranks on different hardware may
    round differently. What most ranks found is taken for right, then what most runs found, then
    the latest.
    """
    losses: dict[tuple[int, int], list[_Loss]] = defaultdict(list)
    for number, run in enumerate(runs):
        for entry in run.ranks:
            for row, value in entry.rows.items():
                losses[row, entry.tensor_rank].append(_Loss(number, entry.rank, value))
    wrong_runs, wrong_rows = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
    for (row, _), found in losses.items():
        for loss in _wrong(found, tolerance.loss):
            wrong_runs[loss.rank].add(loss.run)
            wrong_rows[loss.rank].add(row)
    host_of = {entry.rank: entry.host for run in runs for entry in run.ranks}
    wrong = tuple(
        WrongRank(rank, host_of[rank], frozenset(wrong_runs[rank]), tuple(sorted(wrong_rows[rank])))
        for rank in sorted(wrong_runs)
    )
    if wrong:
        return Verdict(False, wrong, tuple(dict.fromkeys(entry.host for entry in wrong)))
    first = runs[0]
    if all(_sums_agree(first, run, tolerance) for run in runs[1:]):
        return Verdict(True)
    return Verdict(False, hosts=first.hosts)


def largest_differences(runs: Sequence[StepRun]) -> Tolerance:
    """Return the largest differences between any two runs of a sound step."""
    pairs = [(one, other) for place, one in enumerate(runs) for other in runs[:place]]
    rows = [
        difference(value, there.rows[row])
        for one, other in pairs
        for here, there in zip(one.ranks, other.ranks, strict=True)
        for row, value in here.rows.items()
    ]
    norms = [difference(one.gradient_norm, other.gradient_norm) for one, other in pairs]
    losses = [difference(one.loss, other.loss) for one, other in pairs]
    return Tolerance(loss=max(rows + losses), gradient_norm=max(norms))


def difference(one: float, other: float) -> float:
    """Return the relative difference; 0 of two values that are not finite, infinite of one."""
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf if math.isfinite(one) or math.isfinite(other) else 0.0
    return 0.0 if one == other else abs(one - other) / max(abs(one), abs(other))


class _Loss(NamedTuple):
    """Loss of a row as one rank computed it in one run."""

    run: int
    rank: int
    value: float


def _wrong(losses: Sequence[_Loss], tolerance: float) -> Iterator[_Loss]:
    """Yield the losses of one row that cannot be right."""
    finite = [loss for loss in losses if math.isfinite(loss.value)]
    if not finite:
        return
    yield from (loss for loss in losses if not math.isfinite(loss.value))

    def agreeing(with_: _Loss) -> list[_Loss]:
        return [loss for loss in finite if difference(loss.value, with_.value) <= tolerance]

    def support(loss: _Loss) -> tuple[int, int, int]:
        others = agreeing(loss)
        return len({other.rank for other in others}), len(others), loss.run

    right = agreeing(max(finite, key=support))
    for rank in {loss.rank for loss in finite}:
        own = [loss for loss in finite if loss.rank == rank]
        if any(difference(own[0].value, loss.value) > tolerance for loss in own):
            yield from (loss for loss in own if loss not in right)


def _sums_agree(first: StepRun, other: StepRun, tolerance: Tolerance) -> bool:
    """Whether loss and norm of two runs agree; if rows were moved, whether both are finite."""
    norm = difference(first.gradient_norm, other.gradient_norm)
    if other.moved:
        return norm < math.inf
    loss = difference(first.loss, other.loss)
    return norm <= tolerance.gradient_norm and loss <= tolerance.loss
