"""Masked-language-model loss per language on the held-out part of the shards."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.validation_rows import heldout_rows, unigram_loss
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import ROW_TOKENS, LoadedModel
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.parallel.process_grid import DataGroup
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan
from mmbert.training.metrics.loss_meter import LossMeter


@dataclass(frozen=True)
class HeldOutEvaluation:
    """Held-out loss of a model by component, and that of a unigram model on the same tokens."""

    names: tuple[str, ...]
    """Language of each component; `source/language` where there are several sources."""
    losses: LossTable
    unigram: LossTable
    mask_ratio: float
    context: int
    table: ComponentTable | None
    """Tiers of the components; None without a recipe that fits the shards."""


def masked_losses(
    model: LoadedModel,
    shards: Path,
    *,
    documents_per_language: int = 32,
    mask_ratio: float = 0.15,
    context: int | None = None,
    recipe: Recipe | None = None,
) -> HeldOutEvaluation:
    """The loss of `model` on held-out documents of every language of `shards`.

    Documents and masks depend on the shards and the three options alone, so that figures of
    different models with one tokenizer compare. Documents are cut to `context` (the model's own
    unless given, at most 8,192). UserError: the shards hold no held-out text, or were made with
    another tokenizer than the model's.
    """
    corpus = open_corpus(shards)
    _check_tokenizer(model, corpus, shards)
    context = min(context or model.model.context, model.model.context, ROW_TOKENS)
    settings = _recipe(corpus, documents_per_language, mask_ratio, context)
    rows = heldout_rows(corpus, settings)
    if not any(row.weights.any() for row in rows):
        raise UserError(
            f"{shards} holds no held-out text",
            remedy="preprocess more text: each language that"
            " has enough of it gives a held-out part",
        )
    meter = LossMeter(len(corpus.components), model.device)
    with torch.no_grad():
        for row in rows:
            batch = to_batch(row, model.device)
            losses = model.module(batch, rotary_bases=model.model.rotary_bases, dropout_seed=None)
            components = torch.from_numpy(row.masked_components).to(model.device).long()
            meter.add(losses, batch.weights, components)
    several = len({component.source for component in corpus.components}) > 1
    return HeldOutEvaluation(
        names=tuple(
            component.name if several else component.language for component in corpus.components
        ),
        losses=meter.collect(DataGroup.single()),
        unigram=unigram_loss(corpus, rows),
        mask_ratio=mask_ratio,
        context=context,
        table=_component_table(corpus, model.recipe, recipe),
    )


def _component_table(
    corpus: Corpus, own: Recipe | None, given: Recipe | None
) -> ComponentTable | None:
    """Tiers under the recipe `given`, else under the model's own if the shards fit it."""
    if given is not None:
        return ComponentTable.build(corpus, given, training_plan(given))
    if own is not None:
        with contextlib.suppress(UserError):  # evaluated on other text than it was trained on
            return ComponentTable.build(corpus, own, training_plan(own))
    return None


def _check_tokenizer(model: LoadedModel, corpus: Corpus, shards: Path) -> None:
    theirs = FastTokenizer(corpus.tokenizer_folder)
    if theirs.vocabulary != model.tokenizer.vocabulary:
        raise UserError(
            f"{model.path} and {shards} have different tokenizers",
            remedy="evaluate on shards that were made with the model's own tokenizer"
            " (preprocess with TOKENIZER=its folder)",
        )


def _recipe(corpus: Corpus, documents_per_language: int, mask_ratio: float, context: int) -> Recipe:
    """What choosing and masking held-out documents reads of a recipe; the rest is not used."""
    return Recipe.model_validate(
        {
            "name": "evaluation",
            "model": {"preset": "small"},
            "data": {
                "sources": [
                    {"name": source, "tokens": {"none": 1}}
                    for source in sorted({c.source for c in corpus.components})
                ]
            },
            "batch": {"row_tokens": ROW_TOKENS, "rows": 1, "quantum": 1},
            "optimizer": {"learning_rate": 1.0},
            "evaluation": {
                "documents_per_language": documents_per_language,
                "mask_ratio": mask_ratio,
                "context": context,
            },
            "phases": [
                {
                    "name": "none",
                    "tokens": 1,
                    "context": context,
                    "languages": "all",
                    "temperature": 1.0,
                    "mask_ratio": mask_ratio,
                    "rotary_bases": {"global": 10_000, "local": 10_000},
                }
            ],
        }
    )
