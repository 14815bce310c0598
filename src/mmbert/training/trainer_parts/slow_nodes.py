"""Slow nodes, named in the log and in the journal of nodes when it begins and when it ends."""

import socket
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmbert.journals.run_journal import NODE_REPORTS_NAME, NodeProblem, NodeReport, append_record
from mmbert.parallel.host_group import HostGroup
from mmbert.training.fault_tolerance.slow_ranks import SlowRank, SlowRanks
from mmbert.training.metrics.loggers.container import LoggerContainer
from mmbert.training.metrics.own_work import WINDOW, OwnWork
from mmbert.training.metrics.step_timer import StepWork


class SlowNodes:
    """Compares the ranks' own work at each log line. All ranks call every method."""

    def __init__(
        self, folder: Path, host_group: HostGroup, loggers: LoggerContainer, *, profile_steps: int
    ) -> None:
        """Args:
        folder: the run folder.
        profile_steps: steps that rank 0 traces, which delays it.
        """
        self._own_work = OwnWork(skipped_steps=profile_steps)
        self._path = folder / NODE_REPORTS_NAME
        self._host_group, self._loggers = host_group, loggers
        self._ranks = SlowRanks(host_group.world_size)

    def restart(self) -> None:
        """Leave out the next steps, which are slower: after a rollback, in a new phase."""
        self._own_work.restart()

    def numbers(self, steps: Iterable[StepWork]) -> list[float]:
        """Count this rank's steps; return the numbers that the log line gathers."""
        self._own_work.add(steps)
        return self._own_work.take()

    def update(self, step: int, numbers: npt.NDArray[np.float64]) -> dict[str, float]:
        """Compare the ranks' steps up to `step`; collective only if a rank is named.

        Args:
            numbers: float64 [ranks, n], every rank's `numbers()`.

        Returns:
            Keys of `log.jsonl`; none without a step, or with a single rank.
        """
        if numbers.shape[0] == 1 or not numbers.size:
            return {}
        waiting, own = numbers[:, 0], numbers[:, 1:]
        changes = self._ranks.add(own, waiting)
        if changes.begun or changes.ended:
            hosts = self._host_group.gather(socket.gethostname())
            self._report(step, changes.begun, hosts)
            self._log_end(step, changes.ended, hosts)
        ratios = self._ranks.ratios()
        return {
            "own_work_seconds_per_row": float(np.median(own)),
            "waiting_seconds_per_row": float(np.median(waiting)),
            "own_work_max_over_median": float(ratios.max()),
            "own_work_max_rank": int(ratios.argmax()),
        }

    def _report(self, step: int, ranks: Sequence[SlowRank], hosts: Sequence[str]) -> None:
        for host, slow in _by_host(ranks, hosts):
            worst = max(slow, key=lambda rank: rank.excess)
            others = ", ".join(str(rank.rank) for rank in slow if rank is not worst)
            detail = (
                f"rank {worst.rank} takes {worst.excess:.0%} longer than the median rank for its "
                f"own work, over {WINDOW} steps ({_describe(worst)})"
                f"{f'; also slow: ranks {others}' if others else ''}"
            )
            self._event("slow", step, f"slow node {host}: {detail}", host, slow)
            report = NodeReport(
                unix_time=time.time(),
                host=host,
                problem=NodeProblem.SLOW,
                detail=detail,
                step=step,
                rank=worst.rank,
            )
            self._loggers.attempt(self._path, partial(append_record, self._path, report))

    def _log_end(self, step: int, ranks: Sequence[SlowRank], hosts: Sequence[str]) -> None:
        for host, fine in _by_host(ranks, hosts):
            names = ", ".join(f"rank {rank.rank} ({_describe(rank)})" for rank in fine)
            self._event("slow ended", step, f"node {host} is no longer slow: {names}", host, fine)

    def _event(self, kind: str, step: int, text: str, host: str, ranks: Sequence[SlowRank]) -> None:
        excess = {str(rank.rank): round(rank.excess, 4) for rank in ranks}
        self._loggers.event(kind, step, f"step {step}: {text}", host=host, excess=excess)


def _describe(rank: SlowRank) -> str:
    return (
        f"{rank.own:.3g} s against {rank.reference:.3g} s a row; waiting for others "
        f"{rank.waiting:.3g} s against {rank.reference_waiting:.3g} s"
    )


def _by_host(ranks: Sequence[SlowRank], hosts: Sequence[str]) -> list[tuple[str, list[SlowRank]]]:
    """Group ranks by their host; `hosts`: the host of every rank."""

    def host(rank: SlowRank) -> str:
        return hosts[rank.rank]

    return [(name, list(group)) for name, group in groupby(sorted(ranks, key=host), host)]
