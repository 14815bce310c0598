"""Held-out loss of next tokens against a float64 decoder, and the objective that is measured."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from mmbert.cli.app import app
from mmbert.data.loading.validation_rows import validation_rows
from mmbert.data.shards.corpus import open_corpus
from mmbert.evaluation.loaded_model import ROW_TOKENS, LoadedModel
from mmbert.evaluation.masked_loss import masked_losses
from mmbert.recipe import EvaluationSettings, MaskingSettings
from tests.support.decoder import decoder_logits
from tests.support.written_runs import Run, causal_recipe, save_run


def decoder_losses(run: Run, shards: Path, share: float) -> dict[str, tuple[float, int]]:
    """Compute {language: (summed loss, tokens)} of the next tokens, one document at a time."""
    corpus = open_corpus(shards)
    weights = {name: tensor.double() for name, tensor in run.model.named_parameters()}
    sums: dict[str, tuple[float, int]] = {}
    rows = validation_rows(
        corpus,
        sources={component.source for component in corpus.components},
        settings=EvaluationSettings(mask_ratio=share),
        context=256,
        row_tokens=ROW_TOKENS,
        masking=MaskingSettings(),
    )
    for row in rows:
        used = row.weights > 0
        ids = row.input_ids.copy()
        ids[row.masked_positions[used]] = row.labels[used]  # unmasked again
        starts = row.cu_seqlens.tolist()
        for number, component in enumerate(row.segment_components.tolist()):
            if component < 0:
                continue
            start, end = starts[number], starts[number + 1]
            tokens = torch.from_numpy(ids[start:end]).long()
            logits = decoder_logits(
                weights, run.model.config, run.recipe.phases[-1].rotary_bases, tokens
            )
            inside = used & (row.masked_positions >= start) & (row.masked_positions < end)
            labels = torch.from_numpy(row.masked_positions[inside] - start).long()
            loss = functional.cross_entropy(logits[labels - 1], tokens[labels], reduction="sum")
            language = corpus.components[component].language
            total, count = sums.get(language, (0.0, 0))
            sums[language] = (total + float(loss), count + len(labels))
    return sums


def test_losses_are_a_decoders_on_the_tokens_that_are_masked_otherwise(
    run: Run, shards: Path
) -> None:
    model = LoadedModel(run.checkpoint)
    found = masked_losses(model, shards, mask_ratio=0.3, objective="causal")
    masked = masked_losses(model, shards, mask_ratio=0.3)
    expected = decoder_losses(run, shards, 0.3)
    losses = found.losses.by_label(found.names)
    assert losses.keys() == expected.keys() == {"eng_Latn", "deu_Latn", "swh_Latn"}
    for language, (total, count) in expected.items():
        assert found.losses.count[found.names.index(language)] == count > 20
        assert losses[language] == pytest.approx(total / count, rel=1e-5)
    # The same tokens, so that a unigram model has the same loss.
    assert found.unigram.mean() == masked.unigram.mean()
    assert found.losses.mean() != masked.losses.mean()


def test_the_objective_is_that_of_the_last_phase_unless_given(
    run: Run, shards: Path, tmp_path: Path
) -> None:
    causal = save_run(tmp_path / "run", run.model, phase="first", step=10, of=causal_recipe())
    titles = {
        (run.checkpoint, None): "15% masked,",
        (causal, None): "15% predicted from the tokens before,",
        (causal, "masked"): "15% masked,",
        (run.checkpoint, "causal"): "15% predicted from the tokens before,",
    }
    for (path, objective), title in titles.items():
        report = tmp_path / "report.tsv"
        given = [] if objective is None else ["--objective", objective]
        result = CliRunner().invoke(
            app, ["evaluate", str(path), "--data", str(shards), "--report", str(report), *given]
        )
        assert result.exit_code == 0, result.output
        assert title in " ".join(result.output.split())
        kind = "masked_tokens" if "masked" in title else "next_tokens"
        assert report.read_text().split("\t")[2] == kind
