"""Step of the recipe's plan at which a run continues from an imported training state."""

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from mmbert.checkpoint.imported_state import STATE_NAME, ImportedState, read_imported_state
from mmbert.errors import RecipeError
from mmbert.recipe import Recipe
from mmbert.schedule import PhasePlan, TrainingPlan, learning_rate, weight_decay


@dataclass(frozen=True)
class ImportedStart:
    """Start of a run from an imported state.

    Attributes:
        folder: the imported folder.
        state: its training state.
        step: step of the plan to train next.
        description: the place, for the log.
        warnings: settings of the recipe that differ from the state's, where they may.
    """

    folder: Path
    state: ImportedState
    step: int
    description: str
    warnings: tuple[str, ...]


def find_imported_start(recipe: Recipe, plan: TrainingPlan) -> ImportedStart | None:
    """Return the start from the recipe's initial checkpoint; None if it has weights alone.

    Raises:
        CheckpointError: its training state is invalid.
        RecipeError: see `imported_start`.
    """
    folder = recipe.initial_checkpoint
    state = None if folder is None else read_imported_state(folder)
    return None if folder is None or state is None else imported_start(recipe, plan, folder, state)


def imported_start(
    recipe: Recipe, plan: TrainingPlan, folder: Path, state: ImportedState
) -> ImportedStart:
    """Find the step to start from: the one whose tokens before it are nearest to the state's.

    Raises:
        RecipeError: the recipe's optimizer differs, or the state's phase or tokens do not fit the
            plan.
    """
    _check_optimizer(recipe, folder, state)
    phase = _phase(plan, folder, state)
    tokens = _tokens_in_phase(phase, plan, folder, state)
    step = _nearest_step(plan, phase, tokens)
    if step == plan.steps:
        raise RecipeError(
            f"the state in {folder} is at the end of '{phase.name}', the recipe's last phase:"
            " nothing is left to train",
            remedy="add a phase to the recipe, or give the phase to start: mmbert import … --phase"
            " NAME --tokens 0",
        )
    at = plan.at(step)
    planned = at.tokens_before - phase.first_token
    where = plan.phases[at.phase_index].name
    description = (
        f"continuing from {state.source} at step {step:,} of {plan.steps:,} (phase '{where}'):"
        f" {planned:,} tokens of phase '{phase.name}' by the plan, {tokens:,} in the state"
        f" ({planned - tokens:+,}); optimizer step {state.optimizer.steps:,}. The data order"
        " continues at the plan's place; which texts the other trainer read is unknown."
    )
    warnings = tuple(_differences(recipe, plan, step, state))
    return ImportedStart(folder, state, step, description, warnings)


def _check_optimizer(recipe: Recipe, folder: Path, state: ImportedState) -> None:
    ours, theirs = recipe.optimizer, state.optimizer
    for key in ("name", "learning_rate", "betas", "eps"):
        value, wanted = getattr(ours, key), getattr(theirs, key)
        if value != wanted:
            raise RecipeError(
                f"optimizer.{key} is {value}, but the training state in {folder} has {wanted}",
                remedy=f"set optimizer.{key} to {wanted}"
                + (" (phases may set their own learning_rate.peak)" if key[0] == "l" else "")
                + f"; to start from the weights alone, remove {folder / STATE_NAME}",
            )


def _phase(plan: TrainingPlan, folder: Path, state: ImportedState) -> PhasePlan:
    for phase in plan.phases:
        if phase.name == state.phase:
            return phase
    names = ", ".join(phase.name for phase in plan.phases)
    what = "does not say from which phase" if state.phase is None else f"is from '{state.phase}'"
    raise RecipeError(
        f"the training state in {folder} {what}; the recipe's phases: {names}",
        remedy=f'set "phase" in {folder / STATE_NAME}, or import with --phase NAME',
    )


def _tokens_in_phase(
    phase: PhasePlan, plan: TrainingPlan, folder: Path, state: ImportedState
) -> int:
    tokens = state.tokens - (phase.first_token if state.counted_from == "run" else 0)
    last = plan.at(phase.end_step - 1)
    # A run ends on the first step that reaches its tokens, so up to a step more is normal.
    if not 0 <= tokens <= phase.tokens + last.rows * last.row_tokens:
        raise RecipeError(
            f"the training state in {folder} has {state.tokens:,} tokens, counted from the start of"
            f" the {state.counted_from}: {tokens:,} in phase '{phase.name}', which has"
            f" {phase.tokens:,}",
            remedy="name the right phase, or give the tokens of the phase so far: mmbert import …"
            " --phase NAME --tokens N",
        )
    return tokens


def _nearest_step(plan: TrainingPlan, phase: PhasePlan, tokens: int) -> int:
    """Return the phase's step (or its end) whose tokens before it are nearest to `tokens`."""

    def before(step: int) -> int:
        if step == phase.end_step:
            return phase.tokens
        return plan.at(step).tokens_before - phase.first_token

    steps = range(phase.first_step, phase.end_step + 1)
    following = min(bisect_left(steps, tokens, key=before), len(steps) - 1)
    nearest = min(
        steps[max(0, following - 1) : following + 1], key=lambda s: abs(before(s) - tokens)
    )
    return nearest


def _differences(recipe: Recipe, plan: TrainingPlan, step: int, state: ImportedState) -> list[str]:
    """Return warnings of settings that may change, but usually by mistake."""
    found = []
    rate, theirs = learning_rate(recipe, plan, step), state.optimizer.next_learning_rate
    if rate != theirs:
        found.append(
            f"learning rate {rate:.6g} of the plan at step {step:,}; the other trainer's next step"
            f" had {theirs:.6g} (Composer's rate lags one step; here it does not)"
        )
    groups = recipe.optimizer.given_group_rates
    if groups:
        found.append(
            f"learning rates of the recipe's groups of parameters ({', '.join(groups)}); the other"
            " trainer had one rate for all"
        )
    decay = weight_decay(recipe, plan, step)
    if decay != state.optimizer.weight_decay:
        found.append(
            f"weight decay {decay:g} of the recipe; the imported state had"
            f" {state.optimizer.weight_decay:g}"
        )
    dropout = recipe.dropout_in(recipe.phases[plan.at(step).phase_index])
    if state.attention_output_dropout not in (None, dropout):
        found.append(
            f"attention output dropout {dropout:g} of the recipe; the imported model was trained"
            f" with {state.attention_output_dropout:g}"
        )
    return found
