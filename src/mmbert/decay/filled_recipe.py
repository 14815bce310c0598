"""The recipe of a decay: the given one with the values of the imported model and training state."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmbert.checkpoint.imported_state import ImportedState
from mmbert.decay.layout import DecayFolder
from mmbert.decay.request import DecayRequest
from mmbert.errors import ArgumentError, RecipeError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.recipe import LanguageSelection, Recipe, format_quantity, load_recipe

NEW, OLD = "new", "old"
"""Names of the sources in a recipe for new and old languages."""
# Key of the recipe's `model` -> attribute of the imported encoder.
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "global_attention_every",
    "local_window",
    "norm_eps",
)


@dataclass(frozen=True)
class Sources:
    """Folders of the shards with the user's text and with the old languages; None without them."""

    new: str
    old: str | None


def sources_of(request: DecayRequest) -> Sources:
    """Return the folders for the inputs. Raises RecipeError if the recipe has no place for them."""
    recipe = load_recipe(request.recipe, request.overrides)
    folders = {source.name: source.folder for source in recipe.data.sources}
    if {NEW, OLD} <= folders.keys() and len(folders) == 2:
        return Sources(folders[NEW], folders[OLD] if request.old else None)
    if len(folders) == 1 and request.old is None:
        return Sources(next(iter(folders.values())), None)
    raise RecipeError(
        f"{request.recipe} has the sources {', '.join(folders)}",
        remedy=f"name two sources, {NEW} for INPUT and {OLD} for the old languages, as in "
        "your-decay (`mmbert recipes your-decay`); without old languages, one of any name will do",
    )


def first_phase(request: DecayRequest) -> str:
    """Return the name of the phase that the decay starts with."""
    return load_recipe(request.recipe, request.overrides).phases[0].name


def check_length(request: DecayRequest) -> None:
    """Check before the first stage that the phases are longer than their warm-up.

    Raises:
        RecipeError: a phase is no longer, and there is no state, which needs no warm-up.
        ArgumentError: tokens for a recipe of several phases.
    """
    given = load_recipe(request.recipe, request.overrides)
    tokens = _tokens(request, given)
    if request.state is None:
        _check_warmup(load_recipe(request.recipe, [*tokens, *request.overrides]))


def fill_recipe(
    request: DecayRequest,
    folder: DecayFolder,
    model: HuggingFaceModel,
    state: ImportedState | None,
    languages: Sequence[str] = (),
) -> Recipe:
    """Load the request's recipe with the values that follow from the import; overrides come last.

    Args:
        request: names the recipe, tokens and overrides.
        folder: output folder of the decay.
        model: configuration of the model.
        state: training state to continue from; None for weights alone.
        languages: languages to sample; empty: the recipe's.

    Raises:
        RecipeError: the recipe is invalid, or a phase is shorter than its warm-up.
        ArgumentError: tokens for a recipe of several phases.
    """
    given = load_recipe(request.recipe, request.overrides)
    filled = [
        f"initial_checkpoint={json.dumps(str(folder.imported))}",
        *_overrides("model", ((key, getattr(model.encoder, key)) for key in _SIZES)),
        "model.preset=null",
        "model.vocab_size=null",
        *_tokens(request, given),
    ]
    for phase in given.phases:
        values: dict[str, Any] = {
            "rotary_bases": model.rotary_bases.model_dump(mode="json", by_alias=True),
            "context": min(phase.context, model.context),
        }
        if languages:
            values["languages"] = list(languages)
        filled += _overrides(f"phases.{phase.name}", values.items())
    if request.old is None and len(given.data.sources) > 1:
        kept = next(source for source in given.data.sources if source.name == NEW)
        filled.append(f"data.sources={json.dumps([kept.model_dump(exclude_none=True)])}")
    if state is not None:
        filled += _of_state(given, state)
    recipe = load_recipe(request.recipe, [*filled, *_applicable_overrides(request)])
    _check_warmup(recipe)
    return recipe


def describe_changes(
    request: DecayRequest, recipe: Recipe, state: ImportedState | None
) -> Iterator[str]:
    """Yield what the filled recipe has otherwise than the given one, for the user."""
    given = load_recipe(request.recipe, request.overrides)
    for before, now in zip(given.phases, recipe.phases, strict=True):
        if before.context != now.context:
            yield (
                f"phase {now.name}: context {now.context:,} instead of {before.context:,}, the "
                "model's maximum"
            )
    if state is not None:
        optimizer = recipe.optimizer
        yield (
            f"from the state: learning rate {optimizer.learning_rate:g}, betas "
            f"{list(optimizer.betas)}, eps {optimizer.eps:g}, weight decay "
            f"{optimizer.weight_decay:g}, no warm-up"
        )


def selects(languages: Sequence[str], language: str) -> bool:
    """Return whether `languages`, with or without scripts, name `language`."""
    selection = LanguageSelection(names=tuple(languages))
    return selection.includes(language, tokens=0, size_bytes=0)


def _overrides(section: str, values: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{section}.{key}={json.dumps(value)}" for key, value in values]


def _tokens(request: DecayRequest, given: Recipe) -> list[str]:
    if request.tokens is None:
        return []
    if len(given.phases) > 1:
        names = ", ".join(phase.name for phase in given.phases)
        raise ArgumentError(
            f"--tokens is for a recipe of one phase; {request.recipe} has {names}",
            remedy="set them one by one: phases.NAME.tokens=…",
        )
    return [f"phases.{given.phases[0].name}.tokens={request.tokens}"]


def _of_state(given: Recipe, state: ImportedState) -> list[str]:
    """Return the settings under which the state's moments were made; no warm-up for old moments."""
    optimizer = state.optimizer
    values: dict[str, Any] = {
        "name": optimizer.name,
        "learning_rate": optimizer.learning_rate,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }
    filled = _overrides("optimizer", values.items())
    filled.append(f"phases.{given.phases[0].name}.learning_rate.warmup=0")
    if state.attention_output_dropout is not None:
        filled.append(f"model.attention_output_dropout={state.attention_output_dropout}")
    return filled


def _applicable_overrides(request: DecayRequest) -> list[str]:
    """Return the user's overrides, except those of a source that was left out."""
    left_out = f"data.sources.{OLD}."
    return [text for text in request.overrides if request.old or not text.startswith(left_out)]


def _check_warmup(recipe: Recipe) -> None:
    for phase in recipe.phases:
        warmup = phase.learning_rate.warmup
        if warmup >= phase.tokens:
            raise RecipeError(
                f"phase {phase.name} has {format_quantity(phase.tokens)} tokens, no more than its "
                f"warm-up of {format_quantity(warmup)}",
                remedy=f"give more --tokens, or phases.{phase.name}.learning_rate.warmup="
                f"{format_quantity(max(1, phase.tokens // 20))}",
            )
