"""Concurrent trials: each fault's tests run without the fault first, then with it."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
from tqdm import tqdm

from tests.mutations.faults import Fault
from tests.mutations.trials import Trial, Verdict, run_tests, soundness, try_fault
from tests.mutations.verdicts import Verdicts
from tests.support.environment import ROOT
from tests.support.sessions import end_session

Result = TypeVar("Result")


def try_all(
    faults: list[Fault],
    verdicts: Verdicts,
    workers: int,
    *,
    again: bool = False,
    root: Path = ROOT,
) -> list[Trial]:
    """Run the trials of `faults` and return them, including known ones.

    Stores each verdict in `verdicts` immediately and reports faults that are not seen. Trials with
    a known verdict are only repeated with `again`.
    """
    unknown = faults if again else verdicts.without_known(faults)
    unsound = _unsound(unknown, verdicts, workers, root)
    broken = [Trial(fault.name, Verdict.BROKEN, 0.0, why) for fault, why in unsound.items()]
    sound = [fault for fault in unknown if fault not in unsound]
    for fault, trial in _each(partial(try_fault, root=root), sound, workers, "faults"):
        verdicts.add(fault, trial)
        if trial.verdict is Verdict.BROKEN:
            broken.append(trial)
        if trial.verdict is not Verdict.SEEN:
            tqdm.write(f"{trial.verdict}: {trial.fault}: {trial.remark}", file=sys.stderr)
    return [*verdicts.trials(faults), *broken]


def _each(
    work: Callable[[Fault], Result], faults: list[Fault], workers: int, purpose: str
) -> Iterator[tuple[Fault, Result]]:
    """Run `work` on every fault and yield results as they complete.

    Terminates all started processes on an interruption.
    """
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(faults), desc=purpose, unit="", disable=not faults) as bar,
    ):
        futures = {pool.submit(work, fault): fault for fault in faults}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in psutil.Process().children():
                end_session(child.pid)
            raise


def _unsound(faults: list[Fault], verdicts: Verdicts, workers: int, root: Path) -> dict[Fault, str]:
    """Return faults whose tests fail without them, with the reason. Runs equal tests once."""
    by_tests: dict[object, list[Fault]] = {}
    for fault in faults:
        if not verdicts.is_sound(fault):
            by_tests.setdefault((fault.tests, fault.environment), []).append(fault)
    found: dict[Fault, str] = {}
    first = [group[0] for group in by_tests.values()]

    def work(fault: Fault) -> str:
        return soundness(run_tests(fault, with_the_fault=False, root=root))

    for fault, obstacle in _each(work, first, workers, "tests without a fault"):
        if obstacle:
            found |= dict.fromkeys(by_tests[fault.tests, fault.environment], obstacle)
        else:
            verdicts.add_sound(fault)
    return found
