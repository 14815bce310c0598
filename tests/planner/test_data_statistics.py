"""Estimates from shards: languages, epochs and lengths match the text."""

from pathlib import Path

import numpy as np
import pytest

from mmbert.data.shards.continuation_index import count_parts, part_bounds
from mmbert.errors import UserError
from mmbert.planner import Estimate, estimate
from mmbert.recipe import Recipe, parse_recipe
from tests.support.corpora import write_corpus

RECIPE = """
name: tiny
model: {hidden_size: 64, intermediate_size: 96, num_hidden_layers: 4, num_attention_heads: 4}
batch: {row_tokens: 1024, rows: 4, quantum: 4}
optimizer: {learning_rate: 0.001}
checkpoint: {every_tokens: 100k}
data:
  sources: [{name: text, sampling: temperature}]
phases:
  - name: first
    tokens: 400k
    context: 128
    languages: [eng, deu]
    temperature: 0.5
    mask_ratio: 0.3
    rotary_bases: {global: 10000, local: 10000}
  - name: second
    tokens: 200k
    context: 512
    languages: all
    temperature: 0.5
    mask_ratio: 0.15
    rotary_bases: {global: 10000, local: 10000}
"""
LENGTHS = {
    "eng_Latn": [30, 500, 900, 60, 200] * 40,
    "deu_Latn": [100, 40, 300] * 20,
    "swh_Latn": [50, 20] * 10,
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "shards", {"text": LENGTHS}, contexts=(128, 512))
    return tmp_path / "shards"


def planned(shards: Path, *overrides: str) -> tuple[Recipe, Estimate]:
    recipe = parse_recipe(RECIPE, overrides)
    return recipe, estimate(recipe, gpus=4, gpu="a100", shards=shards)


def test_epochs_per_language_follow_the_temperature(shards: Path) -> None:
    _, result = planned(shards)
    table = result.languages
    assert table is not None
    assert result.vocabulary_size == 1000
    tokens = {language: sum(lengths) for language, lengths in LENGTHS.items()}
    weights = {language: count**0.5 for language, count in tokens.items()}
    for language in LENGTHS:
        first, second = table.languages[language]
        assert second is not None
        share = weights[language] / sum(weights.values())
        assert second.tokens == pytest.approx(200_704 * share, rel=1e-6)  # whole steps of 4 rows
        if language == "swh_Latn":
            assert first is None
        else:
            assert first is not None
            share = weights[language] / (weights["eng_Latn"] + weights["deu_Latn"])
            assert first.tokens == pytest.approx(401_408 * share, rel=1e-6)
    swahili = table.languages["swh_Latn"][1]
    assert swahili is not None
    # 20 documents of 35 tokens on average, plus begin and end: 740 tokens per epoch.
    assert swahili.epochs == pytest.approx(swahili.tokens / 740, rel=0.01)


def test_languages_passed_too_often_are_warned_of(shards: Path) -> None:
    _, result = planned(shards)
    assert any("swh_Latn" in warning and "max_epochs" in warning for warning in result.warnings)
    _, capped = planned(shards, "data.sources.text.max_epochs=4", "phases.first.tokens=60k",
                        "phases.second.tokens=40k")  # fmt: skip
    assert not any("passed more than" in warning for warning in capped.warnings)


def test_mean_length_is_that_of_the_segments_in_the_rows(shards: Path) -> None:
    _, result = planned(shards)
    table = result.languages
    assert table is not None
    for phase, index in zip(result.phases, (0, 1), strict=True):
        total = squares = 0.0
        for language, lengths in LENGTHS.items():
            entry = table.languages[language][index]
            if entry is None:
                continue
            segments = []
            for length in lengths:
                for part in range(int(count_parts(length, phase.context))):
                    start, end = part_bounds(length, phase.context, part)
                    segments.append(int(end - start) + 2)
            sizes = np.array(segments, dtype=float)
            total += entry.tokens
            squares += entry.tokens * (sizes**2).sum() / sizes.sum()
        assert phase.mean_length == pytest.approx(squares / total)
        assert phase.mean_length < phase.context


def test_several_sources_are_told_apart(tmp_path: Path) -> None:
    sources = {source: {"eng_Latn": [100] * 50} for source in ("text", "books")}
    write_corpus(tmp_path / "shards", sources, contexts=(128, 512))
    _, result = planned(
        tmp_path / "shards",
        "data.sources=[{name: text, tokens: {first: 3, second: 1}},"
        " {name: books, sampling: budget, tokens: {first: 1}}]",
        "phases.first.languages=all",
    )
    assert result.languages is not None
    books, text = (
        result.languages.languages["books/eng_Latn"],
        result.languages.languages["text/eng_Latn"],
    )
    assert books[1] is None
    assert books[0] is not None
    assert text[0] is not None
    assert text[0].tokens == pytest.approx(3 * books[0].tokens)


def test_a_language_that_is_not_there(shards: Path) -> None:
    with pytest.raises(UserError, match="selects none"):
        planned(shards, "phases.first.languages=[xho]")
