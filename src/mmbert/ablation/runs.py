"""Training runs of an ablation study, run sequentially with the user's launcher.

Leading phases shared with the full recipe are not repeated: the run of an ablation starts from a
copy of the checkpoint that the full recipe's run with the same seed saved after them.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from mmbert.ablation.ablations import FULL, Ablation
from mmbert.checkpoint.format import Index
from mmbert.checkpoint.resume_check import check_same_run
from mmbert.checkpoint.store import CheckpointStore
from mmbert.errors import ArgumentError, ResumeError
from mmbert.launching import RunIncompleteError, run_training
from mmbert.ownership import take_folder
from mmbert.recipe import Recipe, load_recipe, parse_recipe
from mmbert.schedule import training_plan

# Recipe keys that affect the final weights and are not compared by `check_same_run`.
_CHECKED_KEYS = ("model", "precision", "initial_checkpoint", "batch", "optimizer")


@dataclass(frozen=True)
class Run:
    """Training run of one ablation with one seed.

    Its first `shared_steps` steps come from `base_run`, the full recipe's run with the same seed.
    """

    ablation: Ablation
    seed: int
    folder: Path
    recipe: Recipe
    base_run: Path
    shared_steps: int

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return f"{self.ablation.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """Path of the log file with the output of all starts."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the ablation and seed, added to the user's."""
        return (*self.ablation.overrides, f"seed={self.seed}")

    @property
    def tokens(self) -> int:
        """Number of nominal tokens that the run trains on, excluding shared steps."""
        plan = training_plan(self.recipe)
        return plan.tokens - (plan.at(self.shared_steps).tokens_before if self.shared_steps else 0)

    def has_begun(self) -> bool:
        """Return whether the run has been started."""
        return self.log.exists() or self.folder.exists()

    def final_checkpoint(self) -> Path | None:
        """Return the checkpoint of the last step, or None if the run is unfinished.

        Raises:
            UserError: the folder contains a run with a different recipe.
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
            raise ResumeError(
                f"cannot use {newest}: it was trained with a different `{changed[0]}` than the "
                f"recipe's (see {newest}/recipe.yaml)",
                remedy=f"restore {changed[0]}, or give another --output",
            )
        return newest if state.step == training_plan(self.recipe).steps else None


def plan_runs(
    recipe: str | Path,
    overrides: Sequence[str],
    ablations: Sequence[Ablation],
    seeds: int,
    output: Path,
) -> list[Run]:
    """Plan one run per ablation and seed, grouped by seed, starting at the recipe's seed."""
    full = load_recipe(recipe, overrides)
    runs = []
    for seed in range(full.seed, full.seed + seeds):
        for ablation in ablations:
            resolved = load_recipe(recipe, [*overrides, *ablation.overrides, f"seed={seed}"])
            name = f"seed-{seed}"
            shared = 0
            if ablation.name != FULL:
                own = full.model_copy(update={"seed": seed})
                if resolved == own:
                    raise ArgumentError(
                        f"variation '{ablation.name}' does not change recipe {full.name}",
                        remedy="omit it, or give it overrides with other values",
                    )
                shared = _shared_steps(own, resolved)
            folder, base_run = output / ablation.name / name, output / FULL / name
            runs.append(Run(ablation, seed, folder, resolved, base_run, shared))
    return runs


def _shared_steps(full: Recipe, varied: Recipe) -> int:
    """Return the number of steps in the leading phases shared by both recipes.

    None if anything but the phases differs, or the longest context, at which all text is cut.
    """
    same = full.model_copy(update={"phases": varied.phases}) == varied
    if not same or full.longest_context != varied.longest_context:
        return 0
    steps = 0
    phases = zip(training_plan(full).phases, full.phases, varied.phases, strict=False)
    for phase, own, other in phases:
        if own != other:
            break
        steps = phase.end_step
    return steps


def train_all(
    runs: Sequence[Run],
    launcher: Sequence[str],
    recipe: str | Path,
    data: Path,
    overrides: Sequence[str],
    console: Console,
) -> None:
    """Train all unfinished runs to completion.

    Raises:
        RunIncompleteError: a run failed or was stopped; the same call continues it.
        UserError: a folder contains a run with a different recipe.
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
            console.print(f"training {run.title}; log: {run.log}", soft_wrap=True, markup=False)
            bar.refresh()
            train_run(run, launcher, recipe, data, overrides)
            bar.update()


def train_run(
    run: Run, launcher: Sequence[str], recipe: str | Path, data: Path, overrides: Sequence[str]
) -> None:
    """Train one run to completion, continuing it where it stopped.

    Raises:
        RunIncompleteError: it failed or was stopped.
    """
    options = map(str, ["--recipe", recipe, "--data", data, "--output", run.folder])
    command = [*launcher, *options, *overrides, *run.overrides]
    run_training(run.title, command, run.folder, run.log)
    if run.final_checkpoint() is None:
        raise RunIncompleteError(
            f"{run.title} exited with status 0 before its last step; see {run.log}", 1
        )


def _start_from_base_run(run: Run) -> None:
    """Copy the base run's checkpoint after the shared phases, if the run has no checkpoint."""
    checkpoints = run.folder / "checkpoints"
    source = run.base_run / "checkpoints" / f"step-{run.shared_steps:08d}"
    if not run.shared_steps or CheckpointStore(checkpoints).list() or not source.is_dir():
        return
    with take_folder(run.folder, what=f"the run {run.folder}") as owner:
        if CheckpointStore(checkpoints).list():  # saved by a run that has ended since
            return
        partial = checkpoints / f".partial-{source.name}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        shutil.copytree(run.base_run / "tokenizer", run.folder / "tokenizer", dirs_exist_ok=True)
        # Results of the shared phases; the run discards those of later phases when it resumes.
        shutil.copyfile(run.base_run / "results.json", run.folder / "results.json")
        with owner.writing():
            partial.rename(checkpoints / source.name)
