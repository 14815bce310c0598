"""Faults to inject into ranks (`job_processes.start_ranks`): each runs in a rank before the job."""

import importlib
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmbert.training.fault_tolerance.hangs.watchdog import Activity


@dataclass(frozen=True)
class Hook:
    """A function or method of the job, by module and qualified name."""

    module: str
    name: str

    def wrap(self, make: Callable[[Any], Any]) -> None:
        """Replace it by `make(original)` in this process."""
        owner: Any = importlib.import_module(self.module)
        *outer, last = self.name.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, last, make(getattr(owner, last)))


# All functions of the job that the faults below patch. Update when moving or renaming one.
HEARTBEAT = Hook("mmbert.training.fault_tolerance.hangs.watchdog", "Watchdog.heartbeat")
TRAINER_HEARTBEAT = Hook("mmbert.training.trainer", "Trainer.heartbeat")
WRITE_CHECKPOINT = Hook("mmbert.checkpoint.writer", "Writer._write")
MESSAGES = {
    kind: Hook("mmbert.parallel.host_group", f"HostGroup.{kind}")
    for kind in ("sum", "gather", "gather_numbers", "broadcast", "barrier")
}
WRITE_METRICS = Hook("mmbert.training.metrics.loggers.container", "LoggerContainer._try")
TO_BATCH = Hook("mmbert.data.loading.device_inputs", "to_batch")
RUN_STEP = Hook("mmbert.training.train_step", "StepRunner.run")
REPEATS_TO_THE_BIT = Hook("mmbert.training.trainer_parts.repetition", "repeats_to_the_bit")
MEMORY_CHECK = Hook("mmbert.training.build_trainer", "run_memory_check")
INITIALIZE = Hook("mmbert.training.build_trainer", "initialize_parameters")
FORWARD_BACKWARD = Hook("mmbert.training.engine.engine", "Engine.forward_backward")
NEXT_ROWS = Hook("mmbert.training.trainer_parts.data_feed", "DataFeed.next_rows")


def signal_at(rank: int, victim: int, step: int, activity: Activity, number: int) -> None:
    """Send signal `number` to rank `victim` when it begins `activity` in `step`."""
    if rank == victim:
        _at(step, activity, lambda: os.kill(os.getpid(), number))


def signal_too(
    rank: int, victim: int, step: int, activity: Activity, number: int, fault: Any, *arguments: Any
) -> None:
    """Combine another fault with `signal_at`."""
    fault(rank, *arguments)
    signal_at(rank, victim, step, activity, number)


def hang_at(rank: int, victim: int, step: int, activity: Activity) -> None:
    """Make rank `victim` sleep forever."""
    if rank == victim:
        _at(step, activity, fall_asleep)


def fall_asleep() -> None:
    """Sleep; the stack of a hanging rank must show this function."""
    time.sleep(1000)


def kill_while_writing(rank: int, victim: int, step: int) -> None:
    """Kill rank `victim` while it writes the checkpoint of `step`."""

    def dying(original: Any) -> Any:
        def write(writer: Any) -> None:
            if rank == victim and writer.job.state.step == step:
                path = writer.job.partial / f"rank-{rank:05d}.safetensors"
                path.write_bytes(b"half a file")
                os.kill(os.getpid(), signal.SIGKILL)
            original(writer)

        return write

    WRITE_CHECKPOINT.wrap(dying)


def let_minutes_pass(rank: int, minutes: float, steps: tuple[int, ...], activity: Activity) -> None:
    """Make the last checkpoint older by `minutes` when `activity` begins in one of `steps`."""

    def aging(original: Any) -> Any:
        def heartbeat(trainer: Any, what: Activity) -> None:
            original(trainer, what)
            if trainer.step in steps and what == activity:
                trainer.checkpoints.saved_at -= 60 * minutes

        return heartbeat

    TRAINER_HEARTBEAT.wrap(aging)


def record_messages(rank: int, folder: Path) -> None:
    """Log every host-side collective of the ranks as a line "STEP KIND ACTIVITY"."""
    place: list[Any] = [0, Activity.START]

    def placing(original: Any) -> Any:
        def heartbeat(watchdog: Any, step: int, activity: Activity) -> None:
            place[:] = step, activity
            original(watchdog, step, activity)

        return heartbeat

    def noting(kind: str) -> Callable[[Any], Any]:
        def noting_kind(original: Any) -> Any:
            def noted(host_group: Any, *values: Any) -> Any:
                with (folder / f"messages-{rank}.txt").open("a") as file:
                    file.write(f"{place[0]} {kind} {place[1]}\n")
                return original(host_group, *values)

            return noted

        return noting_kind

    HEARTBEAT.wrap(placing)
    for kind, hook in MESSAGES.items():
        hook.wrap(noting(kind))


def limit_file_size(rank: int, largest: int) -> None:
    """Make writes beyond `largest` bytes of a file fail, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def limit_log_size_at(rank: int, step: int, activity: Activity, largest: int) -> None:
    """Simulate a full disk for log files only, from `activity` of `step` on."""

    def limiting(original: Any) -> Any:
        def attempt(loggers: Any, what: Any, write: Any) -> None:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            # The output of the ranks goes to a file too, which counts as another disk.
            if "output" not in str(what):
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
            original(loggers, what, write)
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        return attempt

    _at(step, activity, lambda: WRITE_METRICS.wrap(limiting))


def poison_row(rank: int, row_index: int) -> None:
    """Set the weights of one row's masked tokens to NaN."""

    def poisoning(original: Any) -> Any:
        def to_batch(row: Any, device: Any) -> Any:
            batch = original(row, device)
            if row.index == row_index:
                batch = replace(batch, weights=batch.weights * float("nan"))
            return batch

        return to_batch

    TO_BATCH.wrap(poisoning)


def fake_spike(rank: int, row_index: int) -> None:
    """Raise the reported loss of the step that contains this row, each time it is trained."""

    def raising(original: Any) -> Any:
        def run(runner: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
            outcome = original(runner, rows, *arguments, **options)
            if any(row.index // 4 == row_index // 4 for row in rows):
                outcome = replace(outcome, loss=outcome.loss + 50.0)
            return outcome

        return run

    RUN_STEP.wrap(raising)


def miscompute(
    rank: int, victim: int, times: dict[int, int], factor: float, hosts: tuple[str, ...] = ()
) -> None:
    """Multiply the loss weights of a row by `factor` on rank `victim`, as a faulty device would.

    Args:
        times: how often, by step, from its first row on.
        hosts: pretended host name of each rank.
    """
    if hosts:
        socket.gethostname = lambda: hosts[rank]
    left = dict(times)

    def failing(original: Any) -> Any:
        def to_batch(row: Any, device: Any) -> Any:
            batch = original(row, device)
            if rank == victim and left.get(row.index // 4, 0) > 0:
                left[row.index // 4] -= 1
                batch = replace(batch, weights=batch.weights * factor)
            return batch

        return to_batch

    TO_BATCH.wrap(failing)


def miscompute_gradients(rank: int, victim: int, step: int) -> None:
    """Make one backward pass of rank `victim` in `step` yield NaN, with a finite loss."""
    left = [step]

    def failing(original: Any) -> Any:
        def forward_backward(engine: Any, batch: Any, settings: Any, **arguments: Any) -> Any:
            if rank == victim and batch.row_index // 4 in left:
                left.clear()
                arguments["loss_scale"] = arguments["loss_scale"] * float("nan")
            return original(engine, batch, settings, **arguments)

        return forward_backward

    FORWARD_BACKWARD.wrap(failing)


def compute_with_noise(rank: int, relative: float, fault: Any, *arguments: Any) -> None:
    """Pretend a device whose losses differ each time, up to `relative`; add another fault."""
    fault(rank, *arguments)
    REPEATS_TO_THE_BIT.wrap(lambda original: lambda *_: False)
    generator = torch.Generator().manual_seed(rank)

    def varying(original: Any) -> Any:
        def forward_backward(engine: Any, *values: Any, **options: Any) -> Any:
            losses = original(engine, *values, **options)
            return losses * (1 + relative * (2 * torch.rand((), generator=generator) - 1))

        return forward_backward

    FORWARD_BACKWARD.wrap(varying)


def measure_first(rank: int) -> None:
    """Run every step twice before it is trained, without an update."""

    def measuring(original: Any) -> Any:
        def run(runner: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
            for _ in range(2):
                original(runner, rows, *arguments, **options, apply_update=False)
            return original(runner, rows, *arguments, **options)

        return run

    RUN_STEP.wrap(measuring)


def without_memory_check(rank: int) -> None:
    """Skip the memory check."""
    MEMORY_CHECK.wrap(lambda original: lambda *arguments: {})


def run_out_of_memory(rank: int, rotary_base: float) -> None:
    """Raise OOM in passes with this rotary base."""

    def failing(original: Any) -> Any:
        def forward_backward(engine: Any, batch: Any, settings: Any, **arguments: Any) -> Any:
            if settings.rotary_bases.global_ == rotary_base:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(engine, batch, settings, **arguments)

        return forward_backward

    FORWARD_BACKWARD.wrap(failing)


def slow_down(rank: int, victim: int, share: float) -> None:
    """Let rank `victim` be busy for `share` of the time of its own work, after each part of it."""

    def slowing(original: Any) -> Any:
        def slowed(*arguments: Any, **keywords: Any) -> Any:
            begin = time.thread_time()
            result = original(*arguments, **keywords)
            end = time.thread_time()
            while time.thread_time() - end < share * (end - begin):
                pass
            return result

        return slowed

    if rank == victim:
        for hook in (NEXT_ROWS, FORWARD_BACKWARD):
            hook.wrap(slowing)


def perturb_weights(rank: int, relative: float) -> None:
    """Perturb every initial weight by up to `relative` of itself, equally on every rank."""

    def perturbing(original: Any) -> Any:
        def initialize(model: Any, seed: int) -> None:
            original(model, seed)
            generator = torch.Generator().manual_seed(11)
            with torch.no_grad():
                for parameter in model.parameters():
                    noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
                    parameter.mul_(1 + relative * noise)

        return initialize

    INITIALIZE.wrap(perturbing)


def _at(step: int, activity: Activity, action: Callable[[], None]) -> None:
    def acting(original: Any) -> Any:
        def heartbeat(watchdog: Any, now: int, what: Activity) -> None:
            original(watchdog, now, what)
            if (now, what) == (step, activity):
                action()

        return heartbeat

    HEARTBEAT.wrap(acting)
