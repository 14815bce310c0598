"""Loss of masked or next tokens per language on the held-out split of shards."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.validation_rows import unigram_loss, validation_rows
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.data.shards.tokenizer_function import different_ids
from mmbert.errors import EvaluationDataError, TokenizerError, UserError
from mmbert.evaluation.loaded_model import ROW_TOKENS, LoadedModel
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.parallel.process_grid import DataGroup
from mmbert.recipe import EvaluationSettings, MaskingSettings, Objective, Recipe
from mmbert.schedule import training_plan
from mmbert.training.metrics.loss_meter import LossMeter


@dataclass(frozen=True)
class HeldOutEvaluation:
    """Held-out losses of a model and a unigram model on the same tokens, by component."""

    names: tuple[str, ...]
    """Language of each component, or `source/language` with several sources."""
    losses: LossTable
    unigram: LossTable
    mask_ratio: float
    context: int
    table: ComponentTable | None
    """Tiers of the components; None if no recipe is known or the model's own does not match."""
    objective: Objective = "masked"


def masked_losses(
    model: LoadedModel,
    shards: Path,
    *,
    objective: Objective = "masked",
    documents_per_language: int = 32,
    mask_ratio: float = 0.15,
    context: int | None = None,
    recipe: Recipe | None = None,
) -> HeldOutEvaluation:
    """Evaluate `model` on held-out documents of every language of `shards`.

    Documents and masks depend only on the shards and options, so that models are comparable at the
    same `context`.

    Args:
        model: model to evaluate.
        shards: folder of token shards.
        objective: predict masked tokens, or the same tokens from those before them (`causal`).
        documents_per_language: number of held-out documents per component.
        mask_ratio: fraction of tokens to mask, or to predict.
        context: maximum tokens per document (default and limit: the model's, at most 8,192).
        recipe: recipe that defines the tiers (default: the checkpoint's).

    Raises:
        UserError: the shards have no held-out text or a different tokenizer than the model.
    """
    corpus = open_corpus(shards)
    _check_tokenizer(model, corpus, shards)
    context = min(context or model.model.context, model.model.context, ROW_TOKENS)
    rows = validation_rows(
        corpus,
        sources={component.source for component in corpus.components},
        settings=EvaluationSettings(
            documents_per_language=documents_per_language, mask_ratio=mask_ratio
        ),
        context=context,
        row_tokens=ROW_TOKENS,
        masking=MaskingSettings(),
        causal=objective == "causal",
    )
    if not any(row.weights.any() for row in rows):
        raise EvaluationDataError(
            f"{shards} has no held-out text",
            remedy="preprocess more text: languages with enough of it get a held-out split",
        )
    meter = LossMeter(len(corpus.components), model.device)
    with torch.no_grad():
        for row in rows:
            batch = to_batch(row, model.device)
            losses = model.module(
                batch,
                rotary_bases=model.model.rotary_bases,
                dropout_seed=None,
                causal=objective == "causal",
            )
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
        objective=objective,
    )


def _component_table(
    corpus: Corpus, own: Recipe | None, given: Recipe | None
) -> ComponentTable | None:
    """Build the tiers of recipe `given`, or of the model's `own` recipe if it fits the shards."""
    if given is not None:
        return ComponentTable.build(corpus, given, training_plan(given))
    if own is not None:
        with contextlib.suppress(UserError):  # shards of other languages or sources
            return ComponentTable.build(corpus, own, training_plan(own))
    return None


def _check_tokenizer(model: LoadedModel, corpus: Corpus, shards: Path) -> None:
    theirs = FastTokenizer(corpus.tokenizer_folder)
    ids = corpus.tokenizer.special_ids
    pair = model.tokenizer.folder, corpus.tokenizer_folder
    same = model.special_ids == ids and theirs.vocabulary == model.tokenizer.vocabulary
    if not same or different_ids(*pair) is not None:
        raise TokenizerError(
            f"{model.path} and {shards} have different tokenizers",
            remedy="evaluate on shards made with the model's tokenizer"
            " (preprocess with TOKENIZER=its folder)",
        )
