"""Tuning of a recipe's rates at a small budget: one training run for each value, key after key."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from mmbert.ablation.ablations import Ablation
from mmbert.ablation.runs import Run, train_run
from mmbert.ablation.search import Search, next_value, search
from mmbert.command_line.tables import WholeTable
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.masked_loss import masked_losses
from mmbert.files import write_json
from mmbert.launching import RunIncompleteError
from mmbert.recipe import Recipe, load_recipe
from mmbert.schedule import training_plan

RESULT_NAME = "tuning.json"


class Trial(BaseModel):
    """A value and the held-out loss of the run with it, in nats per masked token."""

    value: float
    loss: float | None
    """None if training diverged."""


class SearchResult(BaseModel):
    """Trials of one search, by value, ascending."""

    keys: tuple[str, ...]
    trials: list[Trial] = []
    best: float | None = None
    """None before the search has ended, and if every run diverged."""
    bracketed: bool = False
    """Whether the values on both sides of the best one are worse."""


class Tuning(BaseModel):
    """Content of tuning.json."""

    recipe: str
    overrides: tuple[str, ...]
    """Overrides of every run, with those that shorten it."""
    steps: int
    tokens: int
    seed: int
    mask_ratio: float
    unigram: float | None = None
    """Loss of a unigram model on the same tokens; a run near it has learned frequencies alone."""
    searches: list[SearchResult]
    best: tuple[str, ...] = ()
    """Overrides of the best values found."""

    def write(self, folder: Path) -> Path:
        """Write tuning.json atomically and return its path."""
        path = folder / RESULT_NAME
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, self.model_dump(mode="json"))
        return path


def shortened(recipe: Recipe, tokens: int) -> tuple[str, ...]:
    """Return overrides that scale a recipe's phases to `tokens` in all.

    Warm-ups, decays and the batch-size warm-up, which are given in tokens, are scaled alike.
    """
    factor = tokens / sum(phase.tokens for phase in recipe.phases)

    def scaled(count: int) -> int:
        return max(1, round(count * factor))

    overrides = []
    for phase in recipe.phases:
        rate, key = phase.learning_rate, f"phases.{phase.name}"
        overrides.append(f"{key}.tokens={scaled(phase.tokens)}")
        if rate.warmup:
            overrides.append(f"{key}.learning_rate.warmup={scaled(rate.warmup)}")
        if rate.decay_tokens is not None:
            overrides.append(f"{key}.learning_rate.decay_tokens={scaled(rate.decay_tokens)}")
    if recipe.batch.growth is not None:
        overrides.append(f"batch.growth.tokens={scaled(recipe.batch.growth.tokens)}")
    return tuple(overrides)


@dataclass
class Tuner:
    """Runs searches one after the other; each keeps the best values of those before it.

    Attributes:
        recipe: name or path.
        overrides: of every run.
        launcher: command that launches a training run.
        most: runs of a search, at most.
    """

    recipe: str
    overrides: tuple[str, ...]
    data: Path
    output: Path
    launcher: Sequence[str]
    mask_ratio: float
    most: int
    console: Console

    def tune(self, searches: Sequence[Search]) -> Tuning:
        """Train and evaluate until each search has its value; write tuning.json after each run.

        Stops at a search whose best value is not bracketed after `most` runs.

        Raises:
            RunIncompleteError: a run failed or was stopped; the same call continues.
            UserError: a folder contains a run with a different recipe.
        """
        resolved = load_recipe(self.recipe, self.overrides)
        plan = training_plan(resolved)
        found = Tuning(
            recipe=resolved.name,
            overrides=self.overrides,
            steps=plan.steps,
            tokens=plan.tokens,
            seed=resolved.seed,
            mask_ratio=self.mask_ratio,
            searches=[SearchResult(keys=one.keys) for one in searches],
        )
        for number, one in enumerate(searches):
            if not self._search(found, number, one):
                break
        return found

    def _search(self, found: Tuning, number: int, one: Search) -> bool:
        """Run one search; return whether its best value is bracketed."""
        result = found.searches[number]

        def loss_of(value: float) -> float:
            loss = self._loss(self._run(found, f"{number + 1}-{one.name}", one, value), found)
            result.trials.append(Trial(value=value, loss=loss if loss < math.inf else None))
            result.trials.sort(key=lambda trial: trial.value)
            found.write(self.output)
            return loss

        losses = search(one.values, loss_of, self.most)
        best = min(losses, key=lambda value: losses[value])
        if losses[best] < math.inf:
            result.best = best
            result.bracketed = next_value(one.values, losses) is None
            found.best = (*found.best, *one.overrides(best))
        found.write(self.output)
        return result.bracketed

    def _run(self, found: Tuning, folder: str, one: Search, value: float) -> Run:
        overrides = (*found.best, *one.overrides(value))
        resolved = load_recipe(self.recipe, [*self.overrides, *overrides])
        name = f"{one.name}={value:g}"
        place = self.output / folder / f"{value:g}"
        return Run(Ablation(name, name, overrides), resolved.seed, place, resolved, place, 0)

    def _loss(self, run: Run, found: Tuning) -> float:
        """Return the held-out loss of a run, trained if it is not yet; infinite if it diverges."""
        if run.final_checkpoint() is None and not _diverged(run):
            self.console.print(
                f"training {run.title}; log: {run.log}", soft_wrap=True, markup=False
            )
            try:
                train_run(run, self.launcher, self.recipe, self.data, self.overrides)
            except RunIncompleteError:
                if not _diverged(run):
                    raise
        checkpoint = run.final_checkpoint()
        if checkpoint is None:
            return math.inf
        losses = masked_losses(LoadedModel(checkpoint), self.data, mask_ratio=self.mask_ratio)
        found.unigram = losses.unigram.mean()
        loss = losses.losses.mean()
        return math.inf if loss is None or not math.isfinite(loss) else loss


def _diverged(run: Run) -> bool:
    """Return whether a run was ended for losses or gradients that are not finite."""
    try:
        lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    events = [json.loads(line).get("event") for line in lines]
    return events.count("not finite") > run.recipe.guard.non_finite_limit


def render(found: Tuning) -> WholeTable:
    """Build a table with one section per search."""
    table = WholeTable(
        title=f"{found.recipe}, {found.tokens:,} tokens a run, seed {found.seed}: final held-out "
        f"loss (nats per masked token, {found.mask_ratio:.0%} masked)",
        title_justify="left",
    )
    table.add_column("key")
    for heading in ("value", "loss"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for result in found.searches:
        for number, trial in enumerate(result.trials):
            best = trial.value == result.best
            note = "" if not best else "best" if result.bracketed else "best so far"
            table.add_row(
                "+".join(result.keys) if number == 0 else "",
                f"{trial.value:g}",
                "diverged" if trial.loss is None else f"{trial.loss:.4f}",
                note,
                end_section=number == len(result.trials) - 1,
            )
    return table
