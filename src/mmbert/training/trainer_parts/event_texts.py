"""Texts of events in the log: the begin of a phase, a validation."""

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


def held_out_text(step: int, losses: Losses) -> str:
    """Describe the losses of a validation at `step`."""
    tiers = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.tiers.items())
    text = "none" if losses.overall is None else f"{losses.overall:.4f} ({tiers})"
    return f"held-out loss at step {step}: {text}"
