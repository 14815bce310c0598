"""Held-out losses of a decay's models by language, before and after, with the tokens trained on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from mmbert.checkpoint.format import Index
from mmbert.data.shards.corpus import open_corpus
from mmbert.decay.filled_recipe import selects, sources_of
from mmbert.decay.layout import DecayFolder
from mmbert.decay.pinned_models import pinned_model
from mmbert.decay.planning import read_recipe
from mmbert.decay.request import DecayRequest
from mmbert.errors import CheckpointError
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.masked_loss import masked_losses
from mmbert.files import atomic_write, parse_json, write_json

Say = Callable[[str], None]
START, ONTO, TRAINED, RESULT = "start", "onto", "trained", "result"
MASK_RATIO = 0.15


class LanguageLosses(BaseModel):
    """Losses of a language of one source, in nats per masked token."""

    language: str
    source: Literal["new", "old"]
    masked_tokens: int
    """Held-out tokens that were masked."""
    trained_tokens: int
    """Tokens of the language's text that the run was trained on."""
    losses: dict[str, float]
    """Loss by model: start, onto, trained (if they are others), result."""


class DecayComparison(BaseModel):
    """Losses of all models on the same documents and masks."""

    models: dict[str, str]
    """Path or name by role."""
    before: str
    """Role of the model that the result replaces: `onto`, else `start`."""
    merge: str
    mask_ratio: float
    context: int
    tokens: int
    """Nominal tokens of the run."""
    languages: list[LanguageLosses]

    def change(self, losses: dict[str, float]) -> float:
        """Return how much the loss rose from before to the result."""
        return losses[RESULT] - losses[self.before]


def compare(
    request: DecayRequest, folder: DecayFolder, documents: int, say: Say
) -> DecayComparison:
    """Evaluate the models of the decay on the held-out text of its shards.

    Raises:
        UserError: the run is unfinished, or a model cannot be read.
    """
    trained = folder.final_checkpoint()
    if trained is None:
        raise CheckpointError(f"{folder.run} is unfinished", remedy="finish the training first")
    models = _models(request, folder, trained, say)
    corpus, sources, recipe = open_corpus(folder.shards), sources_of(request), read_recipe(folder)
    context = recipe.longest_context
    losses: dict[str, Any] = {}
    for role, path in models.items():
        say(f"evaluating {role}: {path}")
        model = LoadedModel(path)
        if role == START:
            # A state's config.json has the bases that its training began with, not the phase's.
            bases = recipe.phases[0].rotary_bases
            model.model = replace(model.model, rotary_bases=bases)
        found = masked_losses(
            model,
            folder.shards,
            documents_per_language=documents,
            mask_ratio=MASK_RATIO,
            context=context,
        )
        losses[role] = found.losses
    state = Index.read(trained).state
    tokens: dict[str, float] = state.extra.get("component_tokens", {})
    count = losses[RESULT].count
    rows = [
        LanguageLosses(
            language=component.language,
            source="old" if component.source == sources.old else "new",
            masked_tokens=int(count[index]),
            trained_tokens=int(tokens.get(component.name, 0)),
            losses={role: table.loss[index] / count[index] for role, table in losses.items()},
        )
        for index, component in enumerate(corpus.components)
        if count[index]
        and component.source in (sources.new, sources.old)
        and (
            component.source == sources.old
            or not request.languages
            or selects(request.languages, component.language)
        )
    ]
    return DecayComparison(
        models={role: _name(role, path, request) for role, path in models.items()},
        before=ONTO if ONTO in models else START,
        merge=str(request.merge),
        mask_ratio=MASK_RATIO,
        context=context,
        tokens=state.tokens,
        languages=rows,
    )


def write_comparison(
    comparison: DecayComparison, request: DecayRequest, folder: DecayFolder
) -> None:
    """Write decay.tsv, then complete decay.json."""
    roles = list(comparison.models)
    lines = ["\t".join(["language", "source", "masked_tokens", "trained_tokens", *roles, "change"])]
    for row in comparison.languages:
        losses = [f"{row.losses[role]:.6f}" for role in roles]
        numbers = [str(row.masked_tokens), str(row.trained_tokens)]
        change = f"{comparison.change(row.losses):+.6f}"
        lines.append("\t".join([row.language, row.source, *numbers, *losses, change]))
    with atomic_write(folder.table) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    record = _record(folder)
    write_json(folder.record, {**record, "result": comparison.model_dump(mode="json")})


def read_comparison(folder: DecayFolder) -> DecayComparison:
    """Read the comparison in decay.json."""
    return DecayComparison.model_validate(_record(folder)["result"])


def is_compared(folder: DecayFolder) -> bool:
    """Return whether decay.json has the losses."""
    return folder.record.is_file() and "result" in _record(folder)


def _record(folder: DecayFolder) -> dict[str, Any]:
    record: dict[str, Any] = parse_json(folder.record.read_text(encoding="utf-8"))
    return record


def _models(request: DecayRequest, folder: DecayFolder, trained: Path, say: Say) -> dict[str, Path]:
    """Return the models to evaluate by role, each once."""
    models = {START: folder.imported}
    if request.merge.method == "ties":
        models[ONTO] = pinned_model(folder, request.onto or request.model, say)
    if request.merge.method != "none":
        models[TRAINED] = trained
    return {**models, RESULT: folder.model}


def _name(role: str, path: Path, request: DecayRequest) -> str:
    return (request.onto or request.model) if role == ONTO else str(path)
