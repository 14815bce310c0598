"""Injects faults into a small run, restarts it until it ends, and prints a table of the outcomes.

    python -m tests.benchmarks.faults [--kills 50] [--seed 5]

Every run is compared with an undisturbed one: losses of all steps and final weights bitwise, and
the tokens seen per language. Two ranks on the CPU; about five minutes on two cores.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import read_parameters
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.run_config import RunOptions
from tests.support import fault_injection
from tests.support.job_processes import (
    exit_statuses,
    output_of,
    start_ranks,
    wait_for,
)
from tests.support.small_run import (
    STEPS,
    events,
    log_of,
    options_for,
    step_losses,
    write_inputs,
)
from tests.training.test_deepspeed_launcher import launch, processes_of

FAILED, SAVED, DONE = 1, 75, 0


@dataclass
class Outcome:
    """A row of the table."""

    fault: str
    injected: int
    seen: int
    """Faults after which the ranks exited as expected."""
    tokens_off: int
    """Tokens seen repeatedly or not at all, over all languages."""
    losses_equal: bool
    weights_equal: bool

    def with_run(self, other: "Outcome") -> "Outcome":
        """Combine with the outcome of another run."""
        return Outcome(
            self.fault,
            self.injected,
            self.seen,
            self.tokens_off + abs(other.tokens_off),
            self.losses_equal and other.losses_equal,
            self.weights_equal and other.weights_equal,
        )

    @property
    def recovered(self) -> bool:
        """Whether the run ended like the undisturbed one."""
        return self.tokens_off == 0 and self.losses_equal and self.weights_equal


class Trials:
    """Runs the same job with different faults."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.inputs = write_inputs(folder)
        self.undisturbed = options_for(self.inputs, folder / "undisturbed")
        statuses = exit_statuses(start_ranks(self.undisturbed), 600)
        if statuses != [DONE, DONE]:
            raise SystemExit(f"the undisturbed run failed:\n{output_of(self.undisturbed)}")
        times = [entry["time"] for entry in log_of(self.undisturbed.output)]
        self.seconds_of_training = times[-1] - times[0]

    def try_out(self, fault: str, inject: Callable[[RunOptions], tuple[int, int]]) -> Outcome:
        """Inject a fault, restart until the run ends, and compare."""
        options = options_for(self.inputs, self.folder / fault.replace(" ", "-").replace(",", ""))
        injected, seen = inject(options)
        for _ in range(3):
            if exit_statuses(start_ranks(options), 600) == [DONE, DONE]:
                break
        return self._compare(fault, injected, seen, options)

    def _compare(self, fault: str, injected: int, seen: int, options: RunOptions) -> Outcome:
        last = Path("checkpoints") / f"step-{STEPS:08d}"
        ours, theirs = options.output / last, self.undisturbed.output / last
        if not ours.exists():
            sys.stderr.write(output_of(options))
            return Outcome(fault, injected, seen, -1, False, False)
        tokens, expected = (Index.read(path).state.language_tokens for path in (ours, theirs))
        off = sum(abs(tokens.get(k, 0) - expected.get(k, 0)) for k in tokens | expected)
        weights = dict(read_parameters(theirs))
        return Outcome(
            fault, injected, seen, off,
            losses_equal=step_losses(options.output) == step_losses(self.undisturbed.output),
            weights_equal=all(torch.equal(v, weights[k]) for k, v in read_parameters(ours)),
        )  # fmt: skip

    def kill_at_random(self, kills: int) -> Outcome:
        """Send SIGKILL to a random rank at random moments, mostly during training, some at startup.

        A run that has come to its end in spite of it is compared, and another one begun.
        """
        fault = "killed at random moments"
        options = options_for(self.inputs, self.folder / "killed")
        total = Outcome(fault, 0, 0, 0, True, True)
        runs = 0
        for number in tqdm(range(kills), desc="kills", file=sys.stderr):
            begun = self._starts(options)
            ranks = start_ranks(options)
            if self.random.random() < 0.85:
                while self._starts(options) == begun and ranks[0].exitcode is None:
                    ranks[0].join(0.02)
            ranks[0].join(self.random.uniform(0, self.seconds_of_training))
            victim = self.random.randrange(2)
            ranks[victim].kill()
            # The other rank fails by itself as soon as it misses the first; while the two have not
            # yet met it waits, and every launcher then ends it, as is done here.
            ranks[1 - victim].join(60)
            if ranks[1 - victim].exitcode is None:
                ranks[1 - victim].terminate()
            statuses = exit_statuses(ranks, 60)
            total.seen += statuses[1 - victim] in (FAILED, DONE, -signal.SIGTERM)
            ended = (options.output / "checkpoints" / f"step-{STEPS:08d}").exists()
            if ended or number + 1 == kills:
                exit_statuses(start_ranks(options), 300)
                total = total.with_run(self._compare(fault, 0, 0, options))
                runs += 1
                options = options_for(self.inputs, self.folder / f"killed-{runs}")
        total.fault = f"{fault} of {runs} runs"
        total.injected = kills
        return total

    def _starts(self, options: RunOptions) -> int:
        log = options.output / "log.jsonl"
        return len(events(options.output, "start")) if log.exists() else 0


def at_step(
    function: Callable[..., None], *arguments: object, expected: tuple[int | None, int | None]
) -> Callable[[RunOptions], tuple[int, int]]:
    """Return an injection of a fault by a function of `fault_injection`."""

    def inject(options: RunOptions) -> tuple[int, int]:
        statuses = exit_statuses(start_ranks(options, before=function, arguments=arguments), 300)
        return 1, int(tuple(statuses) == expected)

    return inject


def stop_file(options: RunOptions) -> tuple[int, int]:
    """Create a STOP file before the start."""
    options.output.mkdir()
    (options.output / "STOP").touch()
    return 1, int(exit_statuses(start_ranks(options), 300) == [SAVED, SAVED])


def kill_the_launcher(options: RunOptions) -> tuple[int, int]:
    """Kill `deepspeed`: all of its ranks must notice, save and exit."""
    launcher = launch(options.recipe.parent, options.output, "checkpoint.every_tokens=1M")
    log = options.output / "log.jsonl"
    wait_for(lambda: log.exists() and len(step_losses(options.output)) >= 3, 300)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not processes_of(options.output), 120)
    return 1, int("is gone" in events(options.output, "stopped")[-1]["text"])


def log_on_a_full_disk(options: RunOptions) -> tuple[int, int]:
    """Make the log unwritable: the run must save and report it."""
    options.output.mkdir()
    log = options.output / "log.jsonl"
    log.symlink_to("/dev/full")
    statuses = exit_statuses(start_ranks(options), 300)
    log.unlink()
    return 1, int(statuses == [2, 2] and f"{log} cannot be written" in output_of(options))


def stop_a_rank(options: RunOptions) -> tuple[int, int]:
    """Suspend a rank with SIGSTOP: the other must report it and exit."""
    import dataclasses

    short = dataclasses.replace(options, overrides=("guard.hang_minutes=0.4",))
    ranks = start_ranks(
        short,
        before=fault_injection.signal_at,
        arguments=(1, 6, Activity.TRAIN_STEP, signal.SIGSTOP),
    )
    ranks[0].join(300)
    named = "is unresponsive" in output_of(options)
    ranks[1].kill()
    return 1, int(exit_statuses(ranks)[0] == FAILED and named)


def hang(options: RunOptions) -> tuple[int, int]:
    """Make a rank hang: it must be reported with its stack."""
    import dataclasses

    short = dataclasses.replace(options, overrides=("guard.hang_minutes=0.4",))
    ranks = start_ranks(short, before=fault_injection.hang_at, arguments=(1, 6, Activity.READ_ROWS))
    statuses = exit_statuses(ranks, 300)
    named = "fall_asleep" in (options.output / "stacks" / "hang.txt").read_text()
    return 1, int(statuses == [FAILED, FAILED] and named)


def damage(change: Callable[[Path], None]) -> Callable[[RunOptions], tuple[int, int]]:
    """Change the second file of the newest checkpoint: it must be reported."""

    def inject(options: RunOptions) -> tuple[int, int]:
        exit_statuses(
            start_ranks(
                options,
                before=fault_injection.signal_at,
                arguments=(0, 13, Activity.TRAIN_STEP, signal.SIGTERM),
            ),
            300,
        )
        newest = sorted((options.output / "checkpoints").glob("step-*"))[-1]
        file = newest / "rank-00001.safetensors"
        change(file)
        exit_statuses(start_ranks(options), 300)
        return 1, int(str(file) in output_of(options))

    return inject


def flip_a_bit(file: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def main() -> int:
    """Run all faults and print the table; exit status 0 if the run recovered from each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    signals, kill = fault_injection.signal_at, -signal.SIGKILL
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), arguments.seed)
        outcomes = [
            trials.kill_at_random(arguments.kills),
            trials.try_out(
                "killed while a checkpoint is written",
                at_step(fault_injection.kill_while_writing, 1, 8, expected=(FAILED, kill)),
            ),
            trials.try_out(
                "killed while a checkpoint is copied",
                at_step(signals, 0, 12, Activity.SAVE_CHECKPOINT, signal.SIGKILL,
                        expected=(kill, FAILED)),
            ),
            trials.try_out(
                "SIGTERM",
                at_step(signals, 1, 5, Activity.TRAIN_STEP, signal.SIGTERM,
                        expected=(SAVED, SAVED)),
            ),
            trials.try_out(
                "SIGUSR1",
                at_step(signals, 0, 7, Activity.TRAIN_STEP, signal.SIGUSR1,
                        expected=(SAVED, SAVED)),
            ),
            trials.try_out("STOP file", stop_file),
            trials.try_out(
                "full disk", at_step(fault_injection.limit_file_size, 100_000, expected=(2, 2))
            ),
            trials.try_out("full disk under the log", log_on_a_full_disk),
            trials.try_out("launcher killed", kill_the_launcher),
            trials.try_out("checkpoint file truncated", damage(lambda f: os.truncate(f, 1000))),
            trials.try_out("checkpoint bit flipped", damage(flip_a_bit)),
            trials.try_out("checkpoint file missing", damage(lambda f: f.unlink())),
            trials.try_out("rank hangs", hang),
            trials.try_out("rank stopped", stop_a_rank),
        ]  # fmt: skip
    table = Table(title="Faults, two ranks on CPU, against an undisturbed run")
    for heading in ("fault", "injected", "handled", "tokens lost or repeated", "losses", "weights"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for outcome in outcomes:
        table.add_row(
            outcome.fault, str(outcome.injected), str(outcome.seen), str(outcome.tokens_off),
            "equal" if outcome.losses_equal else "DIFFER",
            "equal" if outcome.weights_equal else "DIFFER",
        )  # fmt: skip
    Console(width=100).print(table)
    good = all(o.recovered and o.seen == o.injected for o in outcomes)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
