"""The drill: an undisturbed run, then each fault in a run of its own, below one folder."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from mmbert.errors import OutputError
from mmbert.fault_drill.comparison import FinalState, find_difference, read_final_state
from mmbert.fault_drill.device import Device
from mmbert.fault_drill.faults import VICTIM, Fault, newest_checkpoint
from mmbert.fault_drill.injection import UNDISTURBED
from mmbert.fault_drill.inputs import Inputs, make_inputs
from mmbert.fault_drill.outcome import RESULT_NAME, FaultOutcome
from mmbert.fault_drill.proxy import Proxy
from mmbert.fault_drill.ranks import Ranks, environment_of_drill, free_port

WORK_NAME = "drill-files"
"""Folder of everything but the result, removed at the end."""
_MAY_EXIST = {RESULT_NAME, WORK_NAME}


def check_output(output: Path) -> None:
    """Raise OutputError if the folder holds anything but the files of an earlier drill."""
    found = set(os.listdir(output)) - _MAY_EXIST if output.is_dir() else set()
    if found:
        raise OutputError(
            f"{output} holds other files ({min(found)!r})",
            remedy="name a new or empty folder for the drill",
        )


class Drill:
    """Runs faults one after another; `close` ends all processes."""

    def __init__(self, work: Path, device: Device) -> None:
        """Prepare a drill below `work`, which must not exist."""
        work.mkdir(parents=True)
        temporary = work / "tmp"
        temporary.mkdir(mode=0o700)
        self._work, self._device = work, device
        self._environment = environment_of_drill(temporary, on_cpu=device.on_cpu)
        self._ranks: Ranks | None = None
        self._inputs: Inputs
        self._undisturbed: FinalState

    def close(self) -> None:
        """End the processes of the current start."""
        if self._ranks is not None:
            self._ranks.end()

    def run_undisturbed(self) -> None:
        """Make the inputs, and the run that all others are compared with.

        Raises:
            OutputError: it failed; there is nothing to compare with.
        """
        self._inputs = make_inputs(self._work / "inputs", self._environment)
        run = self._work / "undisturbed"
        statuses = self._start(run)
        if any(statuses):
            raise OutputError(
                f"the undisturbed run failed with exit statuses {statuses}; its output is in "
                f"{self._log(run)}",
                remedy="fix the cause that it names; `mmbert doctor` checks the installation",
            )
        self._undisturbed = read_final_state(run)

    def try_fault(self, fault: Fault) -> FaultOutcome:
        """Cause the fault, continue the run, and compare it with the undisturbed one."""
        begin = time.monotonic()
        statuses: Sequence[int | None] = ()
        survived: bool | None = None
        happened = f"left out: needs {VICTIM + 1} ranks"
        if fault.damage is not None or fault.on_all_ranks or self._device.ranks > VICTIM:
            problem, statuses = self._disturb(fault)
            happened = problem or f"as expected: {fault.expects}; the rest was the same"
            survived = problem is None
        return FaultOutcome(
            fault=fault.name,
            does=fault.does,
            happened=happened,
            seconds=round(time.monotonic() - begin, 1),
            survived=survived,
            statuses=tuple(statuses),
        )

    def _disturb(self, fault: Fault) -> tuple[str | None, Sequence[int | None]]:
        """Return what did not go as expected, or None, and the exit statuses after the fault."""
        run = self._work / fault.name
        if fault.damage is not None:
            shutil.copytree(self._work / "undisturbed", run)
            damaged = fault.damage(newest_checkpoint(run))
            statuses = self._start(run)
            problem = self._unexpected(fault, run, statuses, (damaged.name, "continuing from"))
        else:
            statuses = self._start(run, fault)
            problem = self._unexpected(fault, run, statuses, ())
            if problem is None and any(continued := self._start(run)):
                problem = f"the same command then ended with exit statuses {continued}"
        if problem is None:
            problem = find_difference(run, self._undisturbed, tolerance=self._device.tolerance)
        return problem, statuses

    def _unexpected(
        self, fault: Fault, run: Path, statuses: Sequence[int | None], more: tuple[str, ...]
    ) -> str | None:
        """Return how statuses and output differ from what the fault has to cause."""
        of_victim, of_others = fault.statuses
        wanted = [of_victim if r == VICTIM else of_others for r in range(self._device.ranks)]
        if list(statuses) != wanted:
            return f"exit statuses {list(statuses)} in place of {wanted}"
        said = self._log(run).read_text(encoding="utf-8", errors="replace")
        unsaid = [part for part in (*fault.says, *more) if part not in said]
        return f"nothing printed has {unsaid[0]!r}" if unsaid else None

    def _start(self, run: Path, fault: Fault | None = None) -> list[int | None]:
        """Start the training of `run` and wait for its end, with the fault if there is one."""
        count = self._device.ranks
        injections, ports = [UNDISTURBED] * count, [free_port()] * count
        remaining: set[int] = set()
        if fault is not None:
            of_victim, of_others = fault.statuses
            for rank in range(count):
                if fault.on_all_ranks or rank == VICTIM:
                    injections[rank] = fault.injection
                if (of_victim if rank == VICTIM else of_others) is None:
                    remaining.add(rank)
        cut_after = None if fault is None else fault.cut_after
        arguments = [
            *("--recipe", str(self._inputs.recipe), "--data", str(self._inputs.shards)),
            *("--output", str(run), *(fault.overrides if fault is not None else ())),
        ]
        with nullcontext() if cut_after is None else Proxy(ports[0], cut_after=cut_after) as proxy:
            if proxy is not None:
                ports[VICTIM] = proxy.port
            self._ranks = Ranks(self._environment, self._log(run))
            self._ranks.start(arguments, injections, ports)
            return self._ranks.wait(remaining)

    def _log(self, run: Path) -> Path:
        return run.with_name(f"{run.name}.log")


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, so that nothing is left."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_drill(
    output: Path,
    faults: Sequence[Fault],
    device: Device,
    *,
    keep: bool,
    tell: Callable[[str], None],
) -> tuple[FaultOutcome, ...]:
    """Try all faults and return the outcomes.

    Everything is written to `output`/drill-files, which is removed at the end, except with `keep`
    or if a fault was not survived. After an interruption, `output` is as before.

    Args:
        tell: called with a line of progress.

    Raises:
        OutputError: the undisturbed run failed.
    """
    work = output / WORK_NAME
    new = next((one for one in (output, *output.parents) if one.parent.exists()), output)
    existed = output.exists()
    outcomes: list[FaultOutcome] = []
    remove = True
    with interruptible():
        shutil.rmtree(work, ignore_errors=True)
        drill = Drill(work, device)
        try:
            tell("the small run, undisturbed")
            drill.run_undisturbed()
            for number, fault in enumerate(faults, 1):
                tell(f"{number} of {len(faults)}: {fault.name}: {fault.does}")
                outcomes.append(drill.try_fault(fault))
            remove = not keep and all(one.survived is not False for one in outcomes)
        except OutputError:
            remove = False  # the message names a log in it
            raise
        except KeyboardInterrupt:
            existed = existed or keep
            raise
        finally:
            drill.close()
            if remove:
                shutil.rmtree(work)
                if not outcomes or len(outcomes) < len(faults):
                    _remove_if_made(output, new, existed=existed)
    return tuple(outcomes)


def _remove_if_made(output: Path, new: Path, *, existed: bool) -> None:
    """Remove an interrupted drill's output folder, up to the first parent that it made."""
    if existed:
        return
    while output != new.parent:
        output.rmdir()
        output = output.parent
