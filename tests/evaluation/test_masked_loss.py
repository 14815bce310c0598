"""Held-out losses per language against transformers' own, document by document."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForMaskedLM

from mmbert.data.loading.validation_rows import validation_rows
from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import ROW_TOKENS, LoadedModel
from mmbert.evaluation.masked_loss import masked_losses, render_losses
from mmbert.recipe import EvaluationSettings, MaskingSettings
from tests.support.corpora import write_corpus
from tests.support.tokenizers import metaspace_tokenizer, save_tokenizer
from tests.support.written_runs import Run


def reference_losses(exported: Path, shards: Path, context: int) -> dict[str, tuple[float, int]]:
    """{language: (summed loss, tokens)} by transformers, one document at a time."""
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
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_losses(found))
    text = console.export_text()
    assert f"{found.losses.mean():.3f}" in text
    assert "swh_Latn" in text


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
