"""Comparison of ablations: final held-out losses by tier, with differences paired by seed.

All models are evaluated on the same documents and masks, regardless of their mask ratio in
training. Tiers are those of the full recipe.
"""

import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from mmbert.ablation.ablations import FULL
from mmbert.ablation.runs import Run
from mmbert.checkpoint.format import Index
from mmbert.command_line.tables import WholeTable
from mmbert.data.loading.data_state import check_data_state
from mmbert.data.sampling.component_table import NO_TIER, ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import EvaluationDataError, UserError
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
    """Overrides and losses by tier of one ablation."""

    name: str
    meaning: str
    overrides: tuple[str, ...]
    tiers: dict[str, TierComparison]


class Comparison(BaseModel):
    """Content of ablations.json, with the full recipe first."""

    model_config = ConfigDict(populate_by_name=True)

    recipe: str
    steps: int
    tokens: int
    mask_ratio: float
    context: int
    languages: dict[str, int]
    """Number of languages with held-out text, by tier."""
    ablations: list[AblationResult] = Field(alias="variations")

    def write(self, folder: Path) -> Path:
        """Write ablations.json atomically and return its path."""
        path = folder / RESULT_NAME
        write_json(path, self.model_dump(mode="json", by_alias=True))
        return path


def check_data(runs: Sequence[Run], data: Path) -> None:
    """Check before training that the shards support all runs and the comparison.

    Raises:
        UserError: the shards lack held-out text, or text that a run requires, or are not those
            that a finished run was trained on (an unfinished one compares them itself).
    """
    corpus = open_corpus(data)
    if not any(component.manifest.heldout.documents for component in corpus.components):
        raise EvaluationDataError(
            f"{data} has no held-out text to compare models on",
            remedy="preprocess with a larger --heldout-fraction, or more text",
        )
    for run in runs:
        try:
            plan = training_plan(run.recipe)
            ComponentTable.build(corpus, run.recipe, plan)
            if (checkpoint := run.final_checkpoint()) is not None:
                check_data_state(corpus, run.recipe, plan, Index.read(checkpoint).state.data)
        except UserError as error:
            raise type(error)(f"{run.title}: {error.message}", remedy=error.remedy) from error


def evaluate_runs(runs: Sequence[Run], data: Path, mask_ratio: float) -> Comparison:
    """Evaluate the final checkpoint of every run. All runs must be finished."""
    full = next(run for run in runs if run.ablation.name == FULL)
    plan = training_plan(full.recipe)
    table = ComponentTable.build(open_corpus(data), full.recipe, plan)
    losses: dict[str, dict[int, dict[str, float]]] = {}
    languages: dict[str, int] = {}
    context = 0
    for run in tqdm(runs, "evaluating", unit="model", disable=not sys.stderr.isatty()):
        checkpoint = run.final_checkpoint()
        assert checkpoint is not None, run.title
        found = masked_losses(LoadedModel(checkpoint), data, mask_ratio=mask_ratio)
        losses.setdefault(run.ablation.name, {})[run.seed] = tier_losses(found.losses, table)
        languages = _languages_by_tier(found.losses, table)
        context = found.context
    return Comparison(
        recipe=full.recipe.name,
        steps=plan.steps,
        tokens=plan.tokens,
        mask_ratio=mask_ratio,
        context=context,
        languages=languages,
        ablations=[
            AblationResult(
                name=ablation.name,
                meaning=ablation.meaning,
                overrides=ablation.overrides,
                tiers=compare(losses[ablation.name], losses[FULL]),
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
    own: Mapping[int, Mapping[str, float]], full: Mapping[int, Mapping[str, float]]
) -> dict[str, TierComparison]:
    """Compare losses {seed: {tier: loss}} of an ablation with those of the full recipe."""
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


def render(comparison: Comparison) -> WholeTable:
    """Build a table with one section per ablation."""
    seeds = len(comparison.ablations[0].tiers[ALL].losses)
    table = WholeTable(
        title=f"{comparison.recipe} and ablations, {comparison.tokens:,} tokens each, {seeds} "
        f"seed{'s' if seeds > 1 else ''}: final held-out loss (nats per masked token, "
        f"{comparison.mask_ratio:.0%} masked, documents cut to {comparison.context:,})",
        title_justify="left",
    )
    table.add_column("ablation")
    table.add_column("tier (languages)")
    for heading in ("loss", "minus full", "standard error"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for ablation in comparison.ablations:
        for number, (tier, entry) in enumerate(ablation.tiers.items()):
            table.add_row(
                ablation.name if number == 0 else "",
                f"{tier} ({comparison.languages[tier]})",
                f"{entry.mean:.3f}",
                "" if entry.difference is None else f"{entry.difference:+.3f}",
                "" if entry.standard_error is None else f"{entry.standard_error:.3f}",
                entry.verdict,
                end_section=number == len(ablation.tiers) - 1,
            )
    return table
