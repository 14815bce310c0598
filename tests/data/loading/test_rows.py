"""The contents and shapes of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan
from tests.support.corpora import document_tokens, write_corpus
from tests.support.recipes import phase_of_row


def test_rows_hold_the_documents_they_name(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    """Unmasked ids are begin, the listed tokens of the listed document, end; then padding."""
    numbers = {"aaa_Latn": 0, "bbb_Latn": 1, "ccc_Cyrl": 2}
    for row in rows[::5]:
        settings = recipe.phases[phase_of_row(plan, row.index).index]
        assert row.max_seqlen == settings.context
        ids = row.input_ids.copy()
        used = row.weights > 0
        ids[row.masked_positions[used]] = row.labels[used]
        assert (np.diff(row.masked_positions) >= 0).all()
        end = 0
        for place, (component, document, start, size) in enumerate(row.documents.tolist()):
            begin, end = row.cu_seqlens[place : place + 2].tolist()
            assert end - begin == size + 2
            assert end - begin <= row.max_seqlen
            assert row.segment_components[place] == component
            language = corpus.components[component].language
            whole = document_tokens(numbers[language], document, start + size, 1000)
            assert ids[begin] == 2
            assert ids[end - 1] == 1
            np.testing.assert_array_equal(ids[begin + 1 : end - 1], whole[start:])
        assert end == row.tokens
        assert (row.input_ids[end:] == 0).all()
        assert (row.segment_components[len(row.documents) :] == -1).all()
        owners = np.searchsorted(row.cu_seqlens, row.masked_positions[used], "right") - 1
        np.testing.assert_array_equal(row.masked_components[used], row.segment_components[owners])
        assert (row.masked_components[~used] == -1).all()
        ratio = settings.mask_ratio
        assert len(row.labels) == int(np.ceil(ratio * 256))
        assert used.sum() == round(ratio * (row.tokens - 2 * len(row.documents)))


def test_shapes_are_fixed_within_a_phase(rows: list[Row], plan: TrainingPlan) -> None:
    for planned in plan.phases:
        shapes = {
            (len(row.cu_seqlens), len(row.labels), row.max_seqlen)
            for row in rows[planned.first_row : planned.first_row + planned.rows]
        }
        assert len(shapes) == 1


def _damage(path: Path) -> None:
    content = np.fromfile(path, dtype="<u2")
    content[:] = 1000  # outside the vocabulary of 1000 ids
    content.tofile(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_outside_the_vocabulary_are_never_given_out(
    tmp_path: Path, workers: int, recipe: Recipe, plan: TrainingPlan
) -> None:
    corpus = write_corpus(
        tmp_path, {"web": {"aaa_Latn": [50] * 200, "bbb_Latn": [50] * 90}}, contexts=[64, 128]
    )
    _damage(tmp_path / "web/bbb_Latn/train-00000.bin")
    with pytest.raises(UserError, match=r"bbb_Latn/train-00000\.bin contains id 1000"):
        list(RowLoader(corpus, recipe, plan, workers=workers))
