"""Validation rows are independent of ranks and seed; the unigram loss matches frequencies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.loading.rows import Row
from mmbert.data.loading.validation_rows import (
    unigram_counts,
    unigram_loss,
    validation_rows,
)
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from tests.support.corpora import document_tokens, write_corpus
from tests.support.recipes import phase, small_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two languages with held-out documents in two shards, and a source not in the recipe."""
    return write_corpus(
        tmp_path_factory.mktemp("shards"),
        {
            "web": {"aaa_Latn": [50] * 60, "bbb_Latn": [20] * 30},
            "books": {"aaa_Latn": [40] * 5},
        },
        contexts=[64],
        heldout=[10, 30, 200, 61, 62, 63, 5, 40],
        documents_per_shard=5,
    )


def _recipe(seed: int = 21, documents: int = 6, **masking: object) -> Recipe:
    return small_recipe(
        phase("a", 4096),
        row_tokens=256,
        rows=4,
        quantum=4,
        seed=seed,
        evaluation={"documents_per_language": documents, "mask_ratio": 0.2},
        data={"sources": [{"name": "web"}], "masking": masking},
    )


def _rows(corpus: Corpus, recipe: Recipe, *, rank: int = 0, ranks: int = 1) -> list[Row]:
    return validation_rows(
        corpus,
        sources={source.folder for source in recipe.data.sources},
        settings=recipe.evaluation,
        context=recipe.evaluation.context or recipe.phases[0].context,
        row_tokens=recipe.batch.row_tokens,
        masking=recipe.data.masking,
        rank=rank,
        ranks=ranks,
    )


def test_fixed_whatever_the_seed_and_the_ranks(corpus: Corpus) -> None:
    rows = _rows(corpus, _recipe())
    assert rows
    for other in (_rows(corpus, _recipe(seed=5)), _rows(corpus, _recipe())):
        for a, b in zip(rows, other, strict=True):
            np.testing.assert_array_equal(a.input_ids, b.input_ids)
            np.testing.assert_array_equal(a.masked_positions, b.masked_positions)
    for ranks in (2, 3):
        parts = [_rows(corpus, _recipe(), rank=r, ranks=ranks) for r in range(ranks)]
        assert len({len(part) for part in parts}) == 1  # collectives need equally many
        together = [row for place in zip(*parts, strict=True) for row in place]
        for a, b in zip(rows, together, strict=False):
            np.testing.assert_array_equal(a.input_ids, b.input_ids)
        for empty in together[len(rows) :]:
            assert empty.tokens == 0
            assert empty.weights.sum() == 0
            assert np.diff(empty.cu_seqlens).max() <= 64


def test_masked_in_single_tokens_also_where_training_masks_spans(corpus: Corpus) -> None:
    spans = _rows(corpus, _recipe(spans={"mean": 3, "limit": 10}))
    for a, b in zip(_rows(corpus, _recipe()), spans, strict=True):
        np.testing.assert_array_equal(a.input_ids, b.input_ids)
        np.testing.assert_array_equal(a.masked_positions, b.masked_positions)


@pytest.mark.parametrize("members", [2, 3])
def test_work_divided_among_ranks_gives_the_same(corpus: Corpus, members: int) -> None:
    recipe = _recipe()
    whole = _rows(corpus, recipe)
    divided = validation_rows(
        corpus,
        sources={source.folder for source in recipe.data.sources},
        settings=recipe.evaluation,
        context=recipe.phases[0].context,
        row_tokens=recipe.batch.row_tokens,
        masking=recipe.data.masking,
        share=lambda find: [find(member, members) for member in range(members)],
    )
    for a, b in zip(whole, divided, strict=True):
        np.testing.assert_array_equal(a.documents, b.documents)
        np.testing.assert_array_equal(a.input_ids, b.input_ids)
        np.testing.assert_array_equal(a.masked_positions, b.masked_positions)
    counts = [unigram_counts(corpus, member, members) for member in range(members)]
    divided_loss = unigram_loss(corpus, whole, counts=np.sum(counts, axis=0))
    np.testing.assert_array_equal(divided_loss.loss, unigram_loss(corpus, whole).loss)


def test_documents_are_distinct_and_cut_to_the_context(corpus: Corpus) -> None:
    rows = _rows(corpus, _recipe())
    documents = np.concatenate([row.documents for row in rows])
    names = {corpus.components[c].name for c in documents[:, 0]}
    assert names == {"web/aaa_Latn", "web/bbb_Latn"}
    for component in np.unique(documents[:, 0]):
        own = documents[documents[:, 0] == component]
        assert len(own) == len(np.unique(own[:, 1])) == 6
        assert (own[:, 2] == 0).all()
        assert own[:, 3].max() <= 62
    everything = _rows(corpus, _recipe(documents=100))
    documents = np.concatenate([row.documents for row in everything])
    assert len(documents) == 16
    numbers = {"web/aaa_Latn": 0, "web/bbb_Latn": 1}
    for row in everything:
        ids = row.input_ids.copy()
        used = row.weights > 0
        ids[row.masked_positions[used]] = row.labels[used]
        for place, (component, document, _, size) in enumerate(row.documents.tolist()):
            begin = row.cu_seqlens[place]
            number = numbers[corpus.components[component].name]
            whole = document_tokens(number, 1_000_000 + document, size, 1000)
            np.testing.assert_array_equal(ids[begin + 1 : begin + 1 + size], whole)


def test_more_documents_keep_those_that_were_there(corpus: Corpus) -> None:
    def chosen(count: int) -> set[tuple[int, ...]]:
        rows = _rows(corpus, _recipe(documents=count))
        return {tuple(entry) for row in rows for entry in row.documents[:, :2].tolist()}

    assert chosen(3) < chosen(5)


def test_a_context_longer_than_a_row_is_refused(corpus: Corpus) -> None:
    recipe = small_recipe(phase("a", 4096), row_tokens=256, evaluation={"context": 300})
    with pytest.raises(UserError, match=r"evaluation\.context 300"):
        _rows(corpus, recipe)


def test_no_held_out_text_gives_no_rows(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, {"web": {"aaa_Latn": [50] * 60}}, contexts=[64])
    assert _rows(corpus, _recipe()) == []
    loss = unigram_loss(corpus, [])
    assert loss.mean() is None
    assert loss.count.tolist() == [0.0]


def test_unigram_loss_is_the_smoothed_frequencies(corpus: Corpus) -> None:
    rows = _rows(corpus, _recipe())
    loss = unigram_loss(corpus, rows, tokens_per_component=10**9)
    counts = np.zeros(1000)
    for component in corpus.components:
        for number in range(component.manifest.train.documents):
            np.add.at(counts, corpus.document(component, "train", number).astype(int), 1)
    probability = (counts + 1) / (counts.sum() + 995)  # five ids are special and have none
    assert probability[5:].sum() == pytest.approx(1.0)
    sums: dict[str, list[float]] = {}
    for row in rows:
        for label, weight, component in zip(
            row.labels, row.weights, row.masked_components, strict=True
        ):
            if weight:
                name = corpus.components[component].name
                sums.setdefault(name, []).append(-math.log(probability[label]))
    means = loss.by_label([component.name for component in corpus.components])
    assert set(means) == set(sums)
    for name, values in sums.items():
        assert means[name] == pytest.approx(np.mean(values))
    everything = np.concatenate(list(sums.values()))
    assert loss.mean() == pytest.approx(everything.mean())
    assert loss.count.sum() == len(everything)
    assert loss.count.sum() == sum(int(row.weights.sum()) for row in rows)


def test_unigram_sample_is_bounded(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Corpus.document

    def counted(self: Corpus, *args: object) -> np.ndarray:
        tokens = original(self, *args)  # type: ignore[arg-type]
        read.append(len(tokens))
        return tokens

    monkeypatch.setattr(Corpus, "document", counted)
    unigram_loss(corpus, _rows(corpus, _recipe()), tokens_per_component=100)
    assert 300 <= sum(read) <= 3 * (100 + 50)
