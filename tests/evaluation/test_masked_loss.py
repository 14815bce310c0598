"""Held-out losses per language against transformers, and their reports."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForMaskedLM

from mmbert.data.loading.validation_rows import validation_rows
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import ROW_TOKENS, LoadedModel
from mmbert.evaluation.loss_report import EXTREMES_SHOWN, render_losses, write_losses
from mmbert.evaluation.masked_loss import HeldOutEvaluation, masked_losses
from mmbert.recipe import EvaluationSettings, MaskingSettings
from tests.support.corpora import write_corpus
from tests.support.tokenizers import metaspace_tokenizer, save_tokenizer
from tests.support.written_runs import Run


def reference_losses(exported: Path, shards: Path, context: int) -> dict[str, tuple[float, int]]:
    """Compute {language: (summed loss, tokens)} by transformers, one document at a time."""
    corpus = open_corpus(shards)
    model = AutoModelForMaskedLM.from_pretrained(exported).eval()
    sums: dict[str, tuple[float, int]] = {}
    rows = validation_rows(
        corpus,
        sources={component.source for component in corpus.components},
        settings=EvaluationSettings(mask_ratio=0.3),
        context=context,
        row_tokens=ROW_TOKENS,
        masking=MaskingSettings(),
    )
    for row in rows:
        ids, starts = torch.from_numpy(row.input_ids).long(), row.cu_seqlens.tolist()
        used = row.weights > 0
        for number, component in enumerate(row.segment_components.tolist()):
            if component < 0:
                continue
            start, end = starts[number], starts[number + 1]
            assert end - start <= context
            with torch.no_grad():
                logits = model(input_ids=ids[None, start:end]).logits[0].double()
            inside = used & (row.masked_positions >= start) & (row.masked_positions < end)
            positions = torch.from_numpy(row.masked_positions[inside] - start).long()
            labels = torch.from_numpy(row.labels[inside]).long()
            loss = torch.nn.functional.cross_entropy(logits[positions], labels, reduction="sum")
            language = corpus.components[component].language
            total, count = sums.get(language, (0.0, 0))
            sums[language] = (total + float(loss), count + len(labels))
    return sums


@pytest.mark.parametrize("kind", ["checkpoint", "hugging face"])
def test_losses_are_transformers_own(run: Run, exported: Path, shards: Path, kind: str) -> None:
    path = run.checkpoint if kind == "checkpoint" else exported
    found = masked_losses(LoadedModel(path), shards, mask_ratio=0.3)
    assert found.context == 256
    expected = reference_losses(exported, shards, 256)
    losses = found.losses.by_label(found.names)
    assert losses.keys() == expected.keys() == {"eng_Latn", "deu_Latn", "swh_Latn"}
    for language, (total, count) in expected.items():
        assert found.losses.count[found.names.index(language)] == count > 20
        assert losses[language] == pytest.approx(total / count, rel=1e-5)
    tokens = sum(count for _, count in expected.values())
    overall = sum(total for total, _ in expected.values()) / tokens
    assert found.losses.mean() == pytest.approx(overall, rel=1e-5)
    assert found.losses.count.sum() == tokens


def test_shorter_context_cuts_documents(run: Run, exported: Path, shards: Path) -> None:
    found = masked_losses(LoadedModel(run.checkpoint), shards, mask_ratio=0.3, context=64)
    expected = reference_losses(exported, shards, 64)
    assert dict(zip(found.names, found.losses.count.astype(int), strict=True)) == {
        name: count for name, (_, count) in expected.items()
    }


def test_unigram_model_stands_beside(run: Run, shards: Path) -> None:
    found = masked_losses(LoadedModel(run.checkpoint), shards)
    for loss in found.unigram.by_label(found.names).values():
        assert 0 < loss < 10
    text = printed(render_losses(found))
    assert f"{found.losses.mean():.3f}" in text
    assert "swh_Latn" in text


def printed(table: Table) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def many_languages(table: ComponentTable | None) -> HeldOutEvaluation:
    """Return forty languages with 10 tokens and 1, 2, … nats, and one without held-out text."""
    count = np.append(np.full(40, 10.0), 0.0)
    return HeldOutEvaluation(
        names=tuple(f"language{index}" for index in range(1, 42)),
        losses=LossTable(np.arange(1.0, 42.0) * count, count),
        unigram=LossTable(np.full(41, 50.0) * count, count),
        mask_ratio=0.15,
        context=512,
        table=table,
    )


TIERS = cast(
    ComponentTable,
    SimpleNamespace(
        tiers=("early",) * 10 + ("late",) * 31,
        plan=SimpleNamespace(phases=[SimpleNamespace(name="early"), SimpleNamespace(name="late")]),
    ),
)


def test_of_many_languages_the_table_shows_the_extremes_and_the_tiers() -> None:
    text = printed(render_losses(many_languages(TIERS)))
    shown = [line for line in text.splitlines() if "language" in line and "tokens" not in line]
    assert len(shown) == 2 * EXTREMES_SHOWN
    assert f"{40 - 2 * EXTREMES_SHOWN} more: --all, or --report FILE" in text
    early, late = (line for line in text.splitlines() if "first seen in" in line)
    assert "early (10)" in early
    assert "5.500" in early
    assert "late (30)" in late
    assert "25.500" in late
    assert "20.500" in text.splitlines()[-2]
    assert "first seen in" not in printed(render_losses(many_languages(None)))


def test_all_languages_on_request_and_into_a_file(tmp_path: Path) -> None:
    text = printed(render_losses(many_languages(TIERS), all_languages=True))
    assert sum("language" in line for line in text.splitlines()) == 1 + 40
    write_losses(many_languages(TIERS), tmp_path / "losses.tsv")
    head, first, *others = (tmp_path / "losses.tsv").read_text().splitlines()
    assert head.split("\t") == ["language", "tier", "masked_tokens", "loss", "unigram_loss"]
    assert first.split("\t") == ["language1", "early", "10", "1.000000", "50.000000"]
    assert len(others) == 39


def test_tiers_are_those_of_the_checkpoints_recipe(
    run: Run, exported: Path, shards: Path, tmp_path: Path
) -> None:
    expected = {"deu_Latn": "first", "eng_Latn": "first", "swh_Latn": "last"}
    for path, recipe in ((run.checkpoint, None), (exported, run.recipe)):
        found = masked_losses(LoadedModel(path), shards, recipe=recipe)
        assert found.table is not None
        assert dict(zip(found.names, found.table.tiers, strict=True)) == expected
    assert masked_losses(LoadedModel(exported), shards).table is None
    # The recipe does not name the source of this text.
    other = tmp_path / "shards"
    tokenizer = metaspace_tokenizer()
    write_corpus(
        other, {"other": {"swh_Latn": [40] * 30}}, contexts=(64, 256), heldout=(30,),
        vocabulary_size=tokenizer.get_vocab_size(),
    )  # fmt: skip
    save_tokenizer(other / "tokenizer", tokenizer)
    assert masked_losses(LoadedModel(run.checkpoint), other).table is None
    with pytest.raises(UserError, match="source 'text'"):
        masked_losses(LoadedModel(run.checkpoint), other, recipe=run.recipe)


def test_shards_of_another_tokenizer_are_refused(run: Run, tmp_path: Path) -> None:
    other = metaspace_tokenizer(["quite another text with other words"] * 3, 200)
    write_corpus(
        tmp_path, {"text": {"eng_Latn": [40] * 5}}, contexts=(64,), heldout=(30,),
        vocabulary_size=other.get_vocab_size(),
    )  # fmt: skip
    save_tokenizer(tmp_path / "tokenizer", other)
    with pytest.raises(UserError, match="different tokenizers"):
        masked_losses(LoadedModel(run.checkpoint), tmp_path)


def test_shards_without_held_out_text_are_refused(run: Run, tmp_path: Path) -> None:
    tokenizer = metaspace_tokenizer()
    write_corpus(
        tmp_path, {"text": {"eng_Latn": [40] * 5}}, contexts=(64,),
        vocabulary_size=tokenizer.get_vocab_size(),
    )  # fmt: skip
    save_tokenizer(tmp_path / "tokenizer", tokenizer)
    with pytest.raises(UserError, match="no held-out text"):
        masked_losses(LoadedModel(run.checkpoint), tmp_path)
