"""Comparison of ablations: final held-out losses by tier, with differences paired by seed.

All models are evaluated on the same documents and masks, regardless of their mask ratio in
training. Tiers are those of the full recipe.
"""

import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from mmbert.ablation.ablations import FULL
from mmbert.ablation.equal_flops import Cost
from mmbert.ablation.runs import Run
from mmbert.checkpoint.format import Index
from mmbert.data.loading.data_state import check_data_state
from mmbert.data.sampling.component_table import NO_TIER, ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.errors import EvaluationDataError, ResumeError, UserError
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.masked_loss import masked_losses
from mmbert.files import write_json
from mmbert.schedule import training_plan

ALL = "all"
RESULT_NAME = "ablations.json"


class TierComparison(BaseModel):
    """Final loss of an ablation on the languages of a tier, in nats per masked token.

    Differences are relative to the full recipe with the same seed.
    """

    model_config = ConfigDict(populate_by_name=True)

    losses: dict[int, float]
    """Loss by seed."""
    mean: float
    difference: float | None = None
    standard_error: float | None = None
    """Standard error of the difference over the seeds; None with one seed."""
    verdict: str = Field("", alias="reading")


class AblationResult(BaseModel):
    """Overrides, cost and losses by tier of one ablation."""

    name: str
    meaning: str
    overrides: tuple[str, ...]
    steps: int | None = None
    tokens: int | None = None
    flops: float | None = None
    """Training FLOPs of a run, by the formulas of `mmbert plan`."""
    tiers: dict[str, TierComparison]


class Spread(BaseModel):
    """Spread of the full recipe's loss over its seeds, in nats per masked token of all tiers."""

    seeds: int
    standard_deviation: float
    two_standard_deviations: float


class Threshold(BaseModel):
    """Difference from the full recipe that counts, in nats per masked token of all tiers."""

    nats: float
    written: str
    """When it was written, before any run of an ablation: UTC, ISO 8601."""


class Comparison(BaseModel):
    """Content of ablations.json, with the full recipe first."""

    model_config = ConfigDict(populate_by_name=True)

    recipe: str
    steps: int
    tokens: int
    equal: Literal["tokens", "flops"] = "tokens"
    """What all runs have in common."""
    threshold: Threshold | None = None
    spread: Spread | None = None
    """None with one seed."""
    mask_ratio: float
    context: int | None = None
    """None before any model is evaluated; so are the next two empty."""
    languages: dict[str, int] = {}
    """Number of languages with held-out text, by tier."""
    ablations: list[AblationResult] = Field([], alias="variations")

    @classmethod
    def read(cls, folder: Path) -> "Comparison | None":
        """Read the ablations.json of an earlier call; None without one.

        Raises:
            ResumeError: it is damaged.
        """
        path = folder / RESULT_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ResumeError(
                f"{path} is damaged: {error}",
                remedy="delete it: the same command writes it again, but for a threshold",
            ) from error

    def write(self, folder: Path) -> Path:
        """Write ablations.json atomically and return its path."""
        path = folder / RESULT_NAME
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, self.model_dump(mode="json", by_alias=True))
        return path


def check_held_out(data: Path) -> Corpus:
    """Open shards that have held-out text. Raises UserError if they have none."""
    corpus = open_corpus(data)
    if not any(component.manifest.heldout.documents for component in corpus.components):
        raise EvaluationDataError(
            f"{data} has no held-out text to compare models on",
            remedy="preprocess with a larger --heldout-fraction, or more text",
        )
    return corpus


def check_data(runs: Sequence[Run], data: Path) -> None:
    """Check before training that the shards support all runs and the comparison.

    Raises:
        UserError: the shards lack held-out text, or text that a run requires, or are not those
            that a finished run was trained on (an unfinished one compares them itself).
    """
    corpus = check_held_out(data)
    for run in runs:
        try:
            plan = training_plan(run.recipe)
            ComponentTable.build(corpus, run.recipe, plan)
            if (checkpoint := run.final_checkpoint()) is not None:
                check_data_state(corpus, run.recipe, plan, Index.read(checkpoint).state.data)
        except UserError as error:
            raise type(error)(f"{run.title}: {error.message}", remedy=error.remedy) from error


def evaluate_runs(
    runs: Sequence[Run],
    data: Path,
    mask_ratio: float,
    *,
    costs: Mapping[str, Cost],
    equal: Literal["tokens", "flops"] = "tokens",
    threshold: Threshold | None = None,
) -> Comparison:
    """Evaluate the final checkpoint of every run. All runs must be finished.

    Args:
        costs: of a run of each ablation, by name.
    """
    full = next(run for run in runs if run.ablation.name == FULL)
    plan = training_plan(full.recipe)
    table = ComponentTable.build(open_corpus(data), full.recipe, plan)
    losses: dict[str, dict[int, dict[str, float]]] = {}
    languages: dict[str, int] = {}
    context = 0
    shortest = min(run.recipe.longest_context for run in runs)
    for run in tqdm(runs, "evaluating", unit="model", disable=not sys.stderr.isatty()):
        checkpoint = run.final_checkpoint()
        assert checkpoint is not None, run.title
        found = masked_losses(
            LoadedModel(checkpoint), data, mask_ratio=mask_ratio, context=shortest
        )
        losses.setdefault(run.ablation.name, {})[run.seed] = tier_losses(found.losses, table)
        languages = _languages_by_tier(found.losses, table)
        context = found.context
    return Comparison(
        recipe=full.recipe.name,
        steps=plan.steps,
        tokens=plan.tokens,
        equal=equal,
        threshold=threshold,
        spread=spread_of(losses[FULL]),
        mask_ratio=mask_ratio,
        context=context,
        languages=languages,
        ablations=[
            AblationResult(
                name=ablation.name,
                meaning=ablation.meaning,
                overrides=ablation.overrides,
                **asdict(costs[ablation.name]),
                tiers=compare(losses[ablation.name], losses[FULL], threshold),
            )
            for ablation in dict.fromkeys(run.ablation for run in runs)
        ],
    )


def tier_losses(losses: LossTable, table: ComponentTable) -> dict[str, float]:
    """Return the mean loss per masked token over all tiers (`all`) and for each tier."""
    overall = losses.mean(_in_a_tier(table))
    assert overall is not None
    return {ALL: overall, **losses.by_tier(table)}


def _languages_by_tier(losses: LossTable, table: ComponentTable) -> dict[str, int]:
    """Count the languages with held-out text in all tiers (`all`) and in each tier."""
    found = Counter(table.tiers[index] for index in _in_a_tier(table) if losses.count[index])
    tiers = {phase.name: found[phase.name] for phase in table.plan.phases if found[phase.name]}
    return {ALL: found.total(), **tiers}


def _in_a_tier(table: ComponentTable) -> npt.NDArray[np.int64]:
    """Return the indices of the components used in any phase."""
    return np.flatnonzero(np.asarray(table.tiers) != NO_TIER)


def compare(
    own: Mapping[int, Mapping[str, float]],
    full: Mapping[int, Mapping[str, float]],
    threshold: Threshold | None = None,
) -> dict[str, TierComparison]:
    """Compare losses {seed: {tier: loss}} of an ablation with those of the full recipe.

    A threshold decides over the loss of all tiers; standard errors decide over single tiers.
    """
    found = {}
    for tier in next(iter(full.values())):
        losses = {seed: tiers[tier] for seed, tiers in own.items()}
        entry = TierComparison(losses=losses, mean=statistics.mean(losses.values()))
        if own is not full:
            differences = [losses[seed] - full[seed][tier] for seed in losses]
            entry.difference = statistics.mean(differences)
            if len(differences) > 1:
                standard_deviation = statistics.stdev(differences)
                entry.standard_error = standard_deviation / math.sqrt(len(differences))
            if threshold is not None and tier == ALL:
                entry.verdict = verdict_by_threshold(entry.difference, threshold.nats)
            else:
                entry.verdict = verdict(entry.difference, entry.standard_error)
        found[tier] = entry
    return found


def verdict(difference: float, standard_error: float | None) -> str:
    """Classify a difference from the full recipe's loss; significant above 2 standard errors."""
    if standard_error is None:
        return "one seed: no error estimate"
    if abs(difference) <= 2 * standard_error:
        return "no difference seen"
    return "worse than full" if difference > 0 else "better than full"


def verdict_by_threshold(difference: float, threshold: float) -> str:
    """Classify a difference from the full recipe's loss by a threshold set in advance."""
    if abs(difference) <= threshold:
        return "within the threshold"
    return f"{'worse' if difference > 0 else 'better'} by more than the threshold"


def spread_of(full: Mapping[int, Mapping[str, float]]) -> Spread | None:
    """Return the spread of losses {seed: {tier: loss}} over the seeds; None with one."""
    if len(full) < 2:
        return None
    deviation = statistics.stdev(tiers[ALL] for tiers in full.values())
    return Spread(
        seeds=len(full), standard_deviation=deviation, two_standard_deviations=2 * deviation
    )
