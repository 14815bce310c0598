"""The runs of an ablation: started one after another by the user's launcher, each in its folder.

An ablation whose first phases are the full recipe's is not trained through them again: it begins
from a copy of the checkpoint that the full recipe with the same seed left at their end.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from mmbert.ablation.ablations import FULL, Ablation
from mmbert.checkpoint.format import Index
from mmbert.checkpoint.resume_check import check_same_run
from mmbert.checkpoint.store import CheckpointStore
from mmbert.errors import EXIT_SAVED_START_AGAIN, UserError
from mmbert.recipe import Recipe, load_recipe, parse_recipe
from mmbert.schedule import training_plan
from mmbert.training.fault_tolerance.stop_request import STOP_FILE, StopRequest

POLL_SECONDS = 0.3
LOG_TAIL_LINES = 15
# What decides the weights that a run ends with, beyond what `check_same_run` looks at.
_CHECKED_KEYS = ("model", "precision", "initial_checkpoint", "batch", "optimizer")


class RunIncompleteError(Exception):
    """A run did not reach its end; `status` is what the command leaves with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Run:
    """One ablation with one seed, and the folder it trains in.

    Up to `shared_steps` it is the run in `base_run`, the full recipe with the same seed.
    """

    ablation: Ablation
    seed: int
    folder: Path
    recipe: Recipe
    base_run: Path
    shared_steps: int

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.ablation.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run printed, over all its starts."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def overrides(self) -> tuple[str, ...]:
        """What is added to the user's own overrides."""
        return (*self.ablation.overrides, f"seed={self.seed}")

    @property
    def tokens(self) -> int:
        """What it has to train itself, in nominal tokens."""
        plan = training_plan(self.recipe)
        return plan.tokens - (plan.at(self.shared_steps).tokens_before if self.shared_steps else 0)

    def final_checkpoint(self) -> Path | None:
        """The checkpoint of the last step; None while the run has not ended.

        Raises:
            UserError: the folder holds a run of another recipe.
        """
        checkpoints = CheckpointStore(self.folder / "checkpoints").list()
        if not checkpoints:
            return None
        newest = checkpoints[-1]
        state = Index.read(newest).state
        check_same_run(self.recipe, state, newest)
        before = parse_recipe(state.recipe, origin=f"{newest}/recipe.yaml")
        changed = [
            key for key in _CHECKED_KEYS if getattr(before, key) != getattr(self.recipe, key)
        ]
        begun = [phase.name for phase in training_plan(before).phases].index(state.phase) + 1
        if before.phases[:begun] != self.recipe.phases[:begun]:
            changed.append("phases")
        if changed:
            raise UserError(
                f"{newest} was trained with another `{changed[0]}` than the recipe now says "
                f"(see {newest}/recipe.yaml)",
                remedy=f"set {changed[0]} back, or give another --output",
            )
        return newest if state.step == training_plan(self.recipe).steps else None


def plan_runs(
    recipe: str | Path,
    overrides: Sequence[str],
    ablations: Sequence[Ablation],
    seeds: int,
    output: Path,
) -> list[Run]:
    """Every ablation with the recipe's own seed and those after it, all of one seed together."""
    full = load_recipe(recipe, overrides)
    runs = []
    for seed in range(full.seed, full.seed + seeds):
        for ablation in ablations:
            resolved = load_recipe(recipe, [*overrides, *ablation.overrides, f"seed={seed}"])
            name = f"seed-{seed}"
            shared = 0 if ablation.name == FULL else _shared_steps(full, resolved)
            folder, base_run = output / ablation.name / name, output / FULL / name
            runs.append(Run(ablation, seed, folder, resolved, base_run, shared))
    return runs


def _shared_steps(full: Recipe, varied: Recipe) -> int:
    """Steps of the whole phases at the beginning that both recipes have alike."""
    steps = 0
    for phase, own, other in zip(
        training_plan(full).phases, full.phases, varied.phases, strict=True
    ):
        if own != other:
            break
        steps = phase.end_step
    return steps


def launcher_command(launch: str) -> list[str]:
    """The words of the command that starts a training.

    Raises:
        UserError: its program or its script does not exist.
    """
    words = shlex.split(launch)
    missing = [word for word in words if word.endswith(".py") and not Path(word).is_file()]
    if not words or shutil.which(words[0]) is None:
        missing = words[:1] or ["a command"]
    if missing:
        raise UserError(
            f"--launch '{launch}': there is no {missing[0]}",
            remedy="start it in the repository with .venv/bin on PATH, or give --launch a command "
            "such as 'deepspeed --num_gpus 8 --module mmbert.pretrain'",
        )
    return words


def train_all(
    runs: Sequence[Run],
    launcher: Sequence[str],
    recipe: str | Path,
    data: Path,
    overrides: Sequence[str],
    console: Console,
) -> None:
    """Bring every run to its end; what has ended before is not started again.

    Raises:
        RunIncompleteError: a run failed or was stopped; the same call again goes on with it.
        UserError: a folder holds a run of another recipe.
    """
    waiting = [run for run in runs if run.final_checkpoint() is None]
    with tqdm(
        total=len(runs),
        initial=len(runs) - len(waiting),
        unit="run",
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        for run in waiting:
            _start_from_base_run(run)
            bar.clear()
            console.print(f"training {run.title}; see {run.log}", soft_wrap=True)
            bar.refresh()
            options = ["--recipe", recipe, "--data", data, "--output", run.folder]
            _train(run, [*launcher, *map(str, options), *overrides, *run.overrides])
            bar.update()


def _start_from_base_run(run: Run) -> None:
    """Put the base run's checkpoint at the end of the shared phases into a run that has none."""
    checkpoints = run.folder / "checkpoints"
    source = run.base_run / "checkpoints" / f"step-{run.shared_steps:08d}"
    if not run.shared_steps or CheckpointStore(checkpoints).list() or not source.is_dir():
        return
    partial = checkpoints / f".partial-{source.name}"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.copytree(run.base_run / "tokenizer", run.folder / "tokenizer", dirs_exist_ok=True)
    # What the shared phases came to; the run forgets what lies after them.
    shutil.copyfile(run.base_run / "results.json", run.folder / "results.json")
    partial.rename(checkpoints / source.name)


def _train(run: Run, command: Sequence[str]) -> None:
    """Start `command` and wait; the wish to stop reaches it as a STOP file in the run's folder."""
    run.folder.mkdir(parents=True, exist_ok=True)
    stop = StopRequest(run.folder)
    stop_file = run.folder / STOP_FILE
    with run.log.open("ab") as log:
        # A session of its own: Ctrl-C would kill `deepspeed` before the ranks have saved.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while (status := process.poll()) is None:
            if stop.reason() is not None:
                stop_file.touch()
            time.sleep(POLL_SECONDS)
        stopped = stop.reason() is not None
    finally:
        if process.poll() is None:  # the second Ctrl-C
            process.terminate()
        stop_file.unlink(missing_ok=True)
        stop.close()
    if status == EXIT_SAVED_START_AGAIN or (status == 0 and stopped):
        raise RunIncompleteError(
            f"{run.title} was stopped and has saved; the same command goes on",
            EXIT_SAVED_START_AGAIN,
        )
    if status:
        raise RunIncompleteError(
            f"{run.title} ended with status {status}; the end of {run.log}:\n{_tail(run.log)}\n"
            "  → mend it and give the same command again: what has ended is not repeated",
            # As a shell says it of a process that died of a signal.
            status if status > 0 else 128 - status,
        )
    if run.final_checkpoint() is None:
        raise RunIncompleteError(
            f"{run.title} left with status 0 before its last step: {run.log}", 1
        )


def _tail(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as lines:
        return "".join(deque(lines, maxlen=LOG_TAIL_LINES)).rstrip(os.linesep)
