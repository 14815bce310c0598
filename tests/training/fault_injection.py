"""Faults for the ranks of `processes.start_ranks`: each function runs in a rank before the job."""

import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any


def signal_at(rank: int, victim: int, step: int, activity: str, number: int) -> None:
    """Send this process `number` when rank `victim` comes to `activity` of `step`."""
    if rank == victim:
        _at(step, activity, lambda: os.kill(os.getpid(), number))


def signal_too(
    rank: int, victim: int, step: int, activity: str, number: int, fault: Any, *arguments: Any
) -> None:
    """Another fault, and `signal_at`."""
    fault(rank, *arguments)
    signal_at(rank, victim, step, activity, number)


def hang_at(rank: int, victim: int, step: int, activity: str) -> None:
    """Let rank `victim` sleep for ever."""
    if rank == victim:
        _at(step, activity, fall_asleep)


def fall_asleep() -> None:
    """The stack of a rank that hangs must show this function."""
    time.sleep(1000)


def kill_while_writing(rank: int, victim: int, step: int) -> None:
    """Kill rank `victim` in the middle of writing the checkpoint of `step`."""
    from mmbert.training import checkpoint_writing

    original = checkpoint_writing.Writer._write

    def write(writer: Any) -> None:
        if rank == victim and writer.job.state.step == step:
            path = writer.job.partial / f"rank-{rank:05d}.safetensors"
            path.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        original(writer)

    checkpoint_writing.Writer._write = write  # type: ignore[method-assign]


def let_minutes_pass(rank: int, minutes: float, steps: tuple[int, ...], activity: str) -> None:
    """Let the last checkpoint be older by `minutes` when the run comes to `activity` of a step."""
    from mmbert.training.session import Session

    original = Session.beat

    def beat(session: Any, what: str) -> None:
        original(session, what)
        if session.step in steps and what == activity:
            session._saved_at -= 60 * minutes

    Session.beat = beat  # type: ignore[method-assign]


def note_messages(rank: int, folder: Path) -> None:
    """Write down each host-side message between the ranks: a line "STEP KIND ACTIVITY"."""
    from mmbert.training.control import Control
    from mmbert.training.watchdog import Watchdog

    place = [0, "start"]
    original_beat = Watchdog.beat

    def beat(watchdog: Any, step: int, activity: str) -> None:
        place[:] = step, activity
        original_beat(watchdog, step, activity)

    Watchdog.beat = beat  # type: ignore[method-assign]

    def noting(kind: str) -> Any:
        original = getattr(Control, kind)

        def noted(control: Any, *values: Any) -> Any:
            with (folder / f"messages-{rank}.txt").open("a") as file:
                file.write(f"{place[0]} {kind} {place[1]}\n")
            return original(control, *values)

        return noted

    for kind in ("sum", "gather", "broadcast", "barrier"):
        setattr(Control, kind, noting(kind))


def limit_file_size(rank: int, largest: int) -> None:
    """Let every write beyond `largest` bytes of a file fail, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def limit_figures_at(rank: int, step: int, activity: str, largest: int) -> None:
    """From `activity` of `step` on let figures alone meet a full disk: the limit holds while the
    reporter writes."""
    from mmbert.training.report import Reporter

    original = Reporter.attempt

    def attempt(reporter: Any, what: Any, write: Any) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # What the ranks print goes to a file, too, which is another disk here.
        if "output" not in str(what):
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
        original(reporter, what, write)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def begin() -> None:
        Reporter.attempt = attempt  # type: ignore[method-assign]

    _at(step, activity, begin)


def poison_row(rank: int, row_index: int) -> None:
    """Give one row's masked tokens weights that are not numbers."""
    from mmbert.training import inputs

    original = inputs.to_batch

    def to_batch(row: Any, device: Any) -> Any:
        batch = original(row, device)
        if row.index == row_index:
            batch = replace(batch, weights=batch.weights * float("nan"))
        return batch

    inputs.to_batch = to_batch


def fake_spike(rank: int, row_index: int) -> None:
    """Let the step with this first row report a loss far above the others, whenever it is done."""
    from mmbert.training import step

    original = step.StepRunner.run

    def run(runner: Any, rows: Any, **arguments: Any) -> Any:
        outcome = original(runner, rows, **arguments)
        if any(row.index // 4 == row_index // 4 for row in rows):
            outcome = replace(outcome, loss=outcome.loss + 50.0)
        return outcome

    step.StepRunner.run = run  # type: ignore[method-assign]


def without_dry_batches(rank: int) -> None:
    """Begin training without trying the largest batches."""
    from mmbert.training import building

    building.run_dry_batches = lambda *arguments: {}


def run_out_of_memory(rank: int, rotary_base: float) -> None:
    """Let the first pass with this rotary base fail as on a full GPU."""
    import torch

    from mmbert.training.engine import Engine

    original = Engine.forward_backward

    def forward_backward(engine: Any, batch: Any, **arguments: Any) -> Any:
        if arguments["rotary_bases"].global_ == rotary_base:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(engine, batch, **arguments)

    Engine.forward_backward = forward_backward  # type: ignore[method-assign]


def perturb_weights(rank: int, relative: float) -> None:
    """Change every first weight by up to `relative` of itself, the same way on every rank."""
    import torch

    from mmbert.training import building

    original = building.initialize_parameters

    def initialize(model: Any, seed: int) -> None:
        original(model, seed)
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
                parameter.mul_(1 + relative * noise)

    building.initialize_parameters = initialize


def _at(step: int, activity: str, action: Any) -> None:
    from mmbert.training.watchdog import Watchdog

    original = Watchdog.beat

    def beat(watchdog: Any, now: int, what: str) -> None:
        original(watchdog, now, what)
        if (now, what) == (step, activity):
            action()

    Watchdog.beat = beat  # type: ignore[method-assign]
