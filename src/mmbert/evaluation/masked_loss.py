"""Masked-language-model loss per language on the held-out part of the shards."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.validation_rows import unigram_loss, validation_rows
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import ROW_TOKENS, LoadedModel
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.parallel.process_grid import DataGroup
from mmbert.recipe import EvaluationSettings, MaskingSettings
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


def masked_losses(
    model: LoadedModel,
    shards: Path,
    *,
    documents_per_language: int = 32,
    mask_ratio: float = 0.15,
    context: int | None = None,
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
    rows = validation_rows(
        corpus,
        sources={component.source for component in corpus.components},
        settings=EvaluationSettings(
            documents_per_language=documents_per_language, mask_ratio=mask_ratio
        ),
        context=context,
        row_tokens=ROW_TOKENS,
        masking=MaskingSettings(),
    )
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
    )


def _check_tokenizer(model: LoadedModel, corpus: Corpus, shards: Path) -> None:
    theirs = FastTokenizer(corpus.tokenizer_folder)
    if theirs.vocabulary != model.tokenizer.vocabulary:
        raise UserError(
            f"{model.path} and {shards} have different tokenizers",
            remedy="evaluate on shards that were made with the model's own tokenizer"
            " (preprocess with TOKENIZER=its folder)",
        )


def render_losses(found: HeldOutEvaluation) -> Table:
    """Languages by their loss, best first, and all together."""
    table = Table(
        title=f"Held-out loss, {found.mask_ratio:.0%} masked, documents cut to {found.context:,}",
        title_justify="left",
    )
    table.add_column("language")
    for heading in ("masked tokens", "loss (nats)", "unigram", "gain"):
        table.add_column(heading, justify="right")
    losses = found.losses.by_label(found.names)
    for name in sorted(losses, key=lambda name: losses[name]):
        table.add_row(name, *_cells(found, np.array([found.names.index(name)])))
    table.add_row("all", *_cells(found, np.arange(len(found.names))), style="bold")
    return table


def _cells(found: HeldOutEvaluation, components: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Tokens, losses and their difference over `components`, which have tokens."""
    loss, unigram = found.losses.mean(components), found.unigram.mean(components)
    assert loss is not None
    assert unigram is not None
    tokens = int(found.losses.count[components].sum())
    return f"{tokens:,}", f"{loss:.3f}", f"{unigram:.3f}", f"{unigram - loss:.3f}"
