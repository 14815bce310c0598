"""Warnings about a recipe that is valid but probably unintended, with or without its shards.

`mmbert plan`, `--dry-run` and the run itself print the same sentences, since all call
`recipe_warnings`.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmbert.data.sampling.mixture_weights import (
    ComponentSize,
    PhaseMixture,
    component_sizes,
    phase_mixtures,
    sampled_sources,
)
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import OptimizerSettings, Phase, Recipe, format_quantity
from mmbert.schedule import PhasePlan, TrainingPlan

# mmBERT's stated aim: at most about five epochs of any language.
MAX_EPOCHS = 5.0
MIN_STEPS = 10
MAX_RATE = 1.0
# Relative difference of the batch-size warm-up from its written length that is worth a warning.
_GROWTH_TOLERANCE = 0.25
_NAMES_SHOWN = 5
_NEAREST_CUTOFF = 0.6


@dataclass(frozen=True)
class _UsualRates:
    """Range of usual peak learning rates of a kind of update, and where it is from."""

    update: str
    lowest: float
    highest: float
    source: str


# The named rates, with room on both sides: BERT (arXiv 1810.04805), mmBERT (2509.06888), continued
# training at a tenth of them; nanoPLM (github.com/alint77/nanoplm-worklog; 5e-3 was best for 4M
# parameters here); Keller Jordan (github.com/KellerJordan/Muon). An update with scale `original`
# has a root mean square of rate / √inputs, with `match_rms` of 0.2 · rate, near AdamW's.
_ADAMW = _UsualRates(
    "AdamW and StableAdamW", 1e-5, 3e-3, "BERT 1e-4, mmBERT 8e-4, small models 2e-3"
)
# A row of the embedding has gradients of its own token's occurrences alone.
_ADAMW_EMBEDDING = _UsualRates(
    "AdamW and StableAdamW outside the matrices", 1e-5, 1.6e-2,
    "as of matrices; up to 1.6e-2 best for 4M parameters in docs/results.md",
)  # fmt: skip
_MUON = {
    "match_rms": _UsualRates(
        "Muon and NorMuon with scale match_rms", 1e-4, 1e-2,
        "as AdamW's by design; 1.1e-3 best in nanoPLM",
    ),
    "original": _UsualRates(
        "Muon with scale original", 2e-3, 1e-1, "0.02 in its author's code"
    ),
}  # fmt: skip


def recipe_warnings(
    recipe: Recipe,
    plan: TrainingPlan,
    sizes: Sequence[ComponentSize] | None = None,
    epochs: Mapping[str, float] | None = None,
) -> Iterator[str]:
    """Yield one sentence per probable mistake.

    Args:
        sizes: components of the shards; None without shards.
        epochs: epochs of each language over the whole run; None if unknown.
    """
    for phase, steps in zip(recipe.phases, plan.phases, strict=True):
        yield from _about_schedule(recipe, phase, steps)
    yield from _about_rates(recipe)
    yield from _about_growth(recipe, plan)
    if sizes is not None:
        for phase in recipe.phases:
            yield from _missing_languages(recipe, phase, sizes)
    repeated = sorted(
        ((name, count) for name, count in (epochs or {}).items() if count > MAX_EPOCHS),
        key=lambda item: (-item[1], item[0]),
    )
    if repeated:
        worst = ", ".join(f"{name} {count:.1f}" for name, count in repeated[:_NAMES_SHOWN])
        yield (
            f"{len(repeated)} languages are repeated for more than {MAX_EPOCHS:.0f} epochs"
            f" (most: {worst}); limit them with data.sources.*.max_epochs"
        )
    if recipe.phases[-1].causal:
        yield (
            f"phase {recipe.phases[-1].name} is causal and the last one: the run ends with a model"
            " that does not predict masked tokens, which export refuses; add a masked phase"
        )
    if recipe.checkpoint.every_tokens is None and recipe.checkpoint.every_minutes is None:
        yield "no checkpoint interval is set: only phase ends are saved"


def corpus_warnings(recipe: Recipe, plan: TrainingPlan, corpus: Corpus) -> tuple[str, ...]:
    """Return the warnings about a recipe on the shards of `corpus`.

    Raises:
        UserError: the shards lack text for a phase, or the index of a context.
    """
    sizes = component_sizes(corpus, recipe)
    epochs = total_epochs(sizes, phase_mixtures(sizes, recipe))
    return tuple(recipe_warnings(recipe, plan, sizes, epochs))


def total_epochs(
    sizes: Sequence[ComponentSize], mixtures: Sequence[PhaseMixture]
) -> dict[str, float]:
    """Return the epochs over all phases by language (by source/language for several sources)."""
    several = len({size.source for size in sizes}) > 1
    return {
        size.name if several else size.language: sum(float(m.epochs[i]) for m in mixtures)
        for i, size in enumerate(sizes)
    }


def nearest_language(name: str, held: Sequence[str]) -> str | None:
    """Return the language of `held` that is spelled most like `name`; None if none is close."""
    known = list(held) if "_" in name else sorted({language.split("_")[0] for language in held})
    close = difflib.get_close_matches(name, known, n=1, cutoff=_NEAREST_CUTOFF)
    return close[0] if close else None


def _about_schedule(recipe: Recipe, phase: Phase, steps: PhasePlan) -> Iterator[str]:
    """Yield settings of a phase that its length leaves without effect."""
    rate = phase.learning_rate
    peak = rate.peak or recipe.optimizer.learning_rate
    if peak > MAX_RATE:
        yield f"phase {phase.name} has a learning rate of {peak:g}, at which training diverges"
    if steps.steps < MIN_STEPS:
        yield f"phase {phase.name} has only {steps.steps} steps; check its tokens"
    if rate.warmup >= steps.tokens:
        yield (
            f"phase {phase.name} ends during its learning-rate warm-up: warmup"
            f" {format_quantity(rate.warmup)}, phase {format_quantity(phase.tokens)}"
        )
    elif rate.decay_tokens is not None and rate.decay_tokens > steps.tokens - rate.warmup:
        yield (
            f"phase {phase.name} is too short for its learning-rate decay: decay_tokens"
            f" {format_quantity(rate.decay_tokens)}, of which"
            f" {format_quantity(max(0, phase.tokens - rate.warmup))} are left after the warm-up"
        )
    ignored = sorted(rate.model_fields_set & {"final", "decay_tokens"})
    if rate.shape == "constant" and ignored:
        yield (
            f"phases.{phase.name}.learning_rate.{ignored[0]} has no effect: the shape is constant"
        )


def _about_rates(recipe: Recipe) -> Iterator[str]:
    """Yield the peak rates that are unusual for the updates of a group of parameters."""
    optimizer = recipe.optimizer
    unusual: dict[tuple[_UsualRates, float], dict[str, list[str]]] = {}
    for phase in recipe.phases:
        peak = phase.learning_rate.peak or optimizer.learning_rate
        for group, factor in optimizer.rate_factors.items():
            usual, rate = _usual_rates(optimizer, group), peak * factor
            if not _is_usual(rate, usual):
                unusual.setdefault((usual, rate), {}).setdefault(group, []).append(phase.name)
    for (usual, rate), phases in unusual.items():
        names = list(dict.fromkeys(name for found in phases.values() for name in found))
        other = next((kind for kind in (_ADAMW, *_MUON.values()) if _is_usual(rate, kind)), None)
        yield (
            f"the peak learning rate of {', '.join(phases)} is {rate:.3g} in phase"
            f"{'' if len(names) == 1 else 's'} {', '.join(names)}; usual for {usual.update} is"
            f" {usual.lowest:g} to {usual.highest:g} ({usual.source})"
            + (f"; {rate:.3g} would be usual for {other.update}" if other is not None else "")
        )


def _usual_rates(optimizer: OptimizerSettings, group: str) -> _UsualRates:
    """Return the usual rates of a group: Muon's are of matrices only."""
    if group != "matrices":
        return _ADAMW_EMBEDDING
    return _ADAMW if optimizer.muon is None else _MUON[optimizer.muon.scale]


def _is_usual(rate: float, usual: _UsualRates) -> bool:
    """Whether a rate is in the range; a product may be a last digit beyond an end."""
    return usual.lowest * (1 - 1e-9) <= rate <= usual.highest * (1 + 1e-9)


def _about_growth(recipe: Recipe, plan: TrainingPlan) -> Iterator[str]:
    """Yield differences of the batch-size warm-up from what the recipe says."""
    growth, first = recipe.batch.growth, plan.phases[0]
    if growth is None:
        return
    full = recipe.phases[0].rows or recipe.batch.rows
    if growth.from_rows >= full:
        yield (
            f"batch.growth has no effect: phase {first.name} has {full} rows per step, from_rows"
            f" is {growth.from_rows}"
        )
        return
    last = first.stages[-1].rows
    if last < full:
        yield (
            f"phase {first.name} ends during the batch-size warm-up, at {last} of {full} rows per"
            f" step: batch.growth.tokens {format_quantity(growth.tokens)}, phase"
            f" {format_quantity(recipe.phases[0].tokens)}"
        )
        return
    taken = plan.row_tokens * sum(
        stage.steps * stage.rows for stage in first.stages if stage.rows < full
    )
    if abs(taken - growth.tokens) > _GROWTH_TOLERANCE * growth.tokens:
        steps = first.stages[0].steps
        yield (
            f"the batch-size warm-up takes {format_quantity(taken)} tokens instead of"
            f" batch.growth.tokens {format_quantity(growth.tokens)}: {steps}"
            f" step{'' if steps == 1 else 's'} at each of {len(first.stages) - 1} sizes"
        )


def _missing_languages(
    recipe: Recipe, phase: Phase, sizes: Sequence[ComponentSize]
) -> Iterator[str]:
    """Yield the names in a phase's languages that no source of the phase holds."""
    folders = {
        source.folder
        for source in sampled_sources(recipe.data.sources, phase)
        if source.sampling == "temperature"
    }
    if not folders:
        return
    held = sorted({size.language for size in sizes if size.source in folders and size.pieces})
    known = {*held, *(language.split("_")[0] for language in held)}
    names = list(dict.fromkeys(phase.languages.names))
    missing = [name for name in names if name not in known]
    if not missing:
        return
    nearest = {name: nearest_language(name, held) for name in missing[:_NAMES_SHOWN]}
    if len(missing) == 1:
        near = nearest[missing[0]]
        yield (
            f"phases.{phase.name} names {missing[0]}, which no source holds"
            f"{f'; nearest: {near}' if near else ''}"
        )
        return
    shown = ", ".join(
        f"{name} (nearest: {near})" if near else name for name, near in nearest.items()
    )
    yield (
        f"phases.{phase.name} names {len(missing):,} languages of {len(names):,} that no source"
        f" holds: {shown}{', …' if len(missing) > _NAMES_SHOWN else ''}"
    )
