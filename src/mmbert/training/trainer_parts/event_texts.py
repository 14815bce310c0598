"""Texts of events in the log: the begin of a phase, a validation."""

from collections.abc import Mapping

from mmbert.recipe import Objective
from mmbert.schedule import PhasePlan, describe_phase_settings
from mmbert.training.metrics.loggers.console_logger import format_count
from mmbert.training.metrics.results import Losses
from mmbert.training.run_config import RunConfig


def phase_text(run: RunConfig, step: int, phase: PhasePlan) -> str:
    """Describe the phase that begins or continues at `step`."""
    begins = "begins" if step == phase.first_step else f"continues at step {step}"
    return (
        f"phase {phase.name} ({phase.index + 1} of {len(run.plan.phases)}) {begins}: "
        f"{format_count(phase.tokens)} tokens in {phase.steps} steps, "
        f"{run.table.languages_in(phase.index)} languages, "
        f"context {run.recipe.phases[phase.index].context}, "
        f"{describe_phase_settings(run.recipe, run.plan, phase.index)}"
    )


def held_out_text(step: int, losses: Mapping[Objective, Losses], objective: Objective) -> str:
    """Describe the losses of a validation at `step`, that of the phase's `objective` first.

    The objectives are named if there are several.
    """
    if len(losses) == 1:
        return f"held-out loss at step {step}: {_losses(losses[objective])}"
    others = [f"{name} {_losses(of)}" for name, of in losses.items() if name != objective]
    own = f"{objective}, the phase's objective, {_losses(losses[objective])}"
    return f"held-out loss at step {step}: {'; '.join([own, *others])}"


def _losses(losses: Losses) -> str:
    tiers = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.tiers.items())
    return "none" if losses.overall is None else f"{losses.overall:.4f} ({tiers})"
