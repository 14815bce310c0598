"""Batches have the tensors of their row, and few unused segment slots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.packing import SLOT_STEP, row_shapes, slots_for
from mmbert.data.loading.rows import Row
from mmbert.data.sampling.mixture_weights import component_sizes, phase_mixtures
from mmbert.data.shards.corpus import Corpus
from mmbert.model.packed_batch import PackedBatch
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan
from mmbert.training.fault_tolerance.memory_check import worst_case_batch
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe
from tests.support.tiny_models import BASES, tiny_config, tiny_model

ROW_TOKENS = 49_152
NAMES = ("input_ids", "cu_seqlens", "masked_positions", "labels", "weights")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Document lengths as on the web: log-normal, median 500, mean 916."""
    random = np.random.default_rng(3)
    lengths = np.maximum(16, random.lognormal(np.log(500), 1.1, 700)).astype(int)
    folder = tmp_path_factory.mktemp("shards")
    return write_corpus(folder, {"web": {"aaa_Latn": lengths.tolist()}}, contexts=[1024, 8192])


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Two phases with realistic rows and contexts."""
    return small_recipe(
        phase("short", 4 * ROW_TOKENS, context=1024),
        phase("long", 4 * ROW_TOKENS, context=8192),
        row_tokens=ROW_TOKENS,
        rows=1,
        quantum=1,
    )


@pytest.fixture(scope="module")
def rows(corpus: Corpus, recipe: Recipe) -> list[Row]:
    """All rows of both phases."""
    return list(RowLoader(corpus, recipe, training_plan(recipe)))


def test_it_holds_the_row_as_tensors(rows: list[Row]) -> None:
    batch = to_batch(rows[0])
    for name, dtype in zip(
        NAMES, (torch.int64, torch.int32, torch.int64, torch.int64, torch.float32), strict=True
    ):
        tensor = getattr(batch, name)
        assert tensor.dtype == dtype
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), getattr(rows[0], name)[: len(tensor)])
    assert (batch.max_seqlen, batch.row_index) == (1024, rows[0].index)
    batch.input_ids[0] = 77  # a copy: the row stays as it is
    assert rows[0].input_ids[0] != 77


def test_it_has_few_slots_without_a_document(rows: list[Row]) -> None:
    """A row has four times the slots that it is likely to need; on a GPU, each has a cost."""
    for row in rows:
        slots = len(to_batch(row).cu_seqlens) - 1
        assert slots <= len(row.documents) + SLOT_STEP
        assert slots % SLOT_STEP == 0  # few shapes
        assert (row.cu_seqlens[slots:] == ROW_TOKENS).all()  # none is lost
    assert {row.max_seqlen for row in rows} == {1024, 8192}
    assert min(len(row.documents) for row in rows) > 20


def test_no_row_has_more_slots_than_its_phases_shape_allows(
    corpus: Corpus, recipe: Recipe, rows: list[Row]
) -> None:
    """The memory check uses exactly as many slots, so that later batches fit."""
    sizes = component_sizes(corpus, recipe)
    short, long = row_shapes(sizes, recipe, phase_mixtures(sizes, recipe))
    for row in rows:
        shape = short if row.max_seqlen == 1024 else long
        assert len(row.cu_seqlens) == shape.max_segments + 1
    for at, shape in zip(recipe.phases, (short, long), strict=True):
        largest = worst_case_batch(at, shape, 1000, torch.device("cpu"))
        assert len(largest.cu_seqlens) == shape.max_segments + 1
        lengths = largest.cu_seqlens.diff()
        assert (int(lengths.max()), int(lengths.sum())) == (at.context, ROW_TOKENS)
    most = short.max_segments
    assert [slots_for(count, most) for count in (1, 32, 33, most)] == [32, 32, 64, most]
    assert slots_for(30, 28 + 5) == 32
    assert slots_for(33, 33) == 33  # a row that is full of documents has no more to give


def test_the_model_does_not_see_which_slots_are_left_out(
    corpus: Corpus, recipe: Recipe, rows: list[Row]
) -> None:
    """Losses and gradients are bitwise equal."""
    row = small_row(rows[0])
    few, model = to_batch(row), tiny_model(tiny_config(vocab_size=1000))
    all_slots = replace(few, cu_seqlens=torch.from_numpy(row.cu_seqlens))
    assert len(few.cu_seqlens) < len(all_slots.cu_seqlens) - 100

    def passed(batch: PackedBatch) -> list[torch.Tensor]:
        model.zero_grad()
        losses = model(batch, rotary_bases=BASES, dropout_seed=3)
        losses.sum().backward()
        return [
            losses.detach(),
            *(p.grad.clone() for p in model.parameters() if p.grad is not None),
        ]

    for ours, theirs in zip(passed(few), passed(all_slots), strict=True):
        assert torch.equal(ours, theirs)


def small_row(row: Row) -> Row:
    """Return the beginning of a row, with all its slots."""
    tokens = 2000
    here = int(np.searchsorted(row.masked_positions, tokens))
    return replace(
        row,
        input_ids=row.input_ids[:tokens],
        cu_seqlens=np.minimum(row.cu_seqlens, tokens),
        masked_positions=row.masked_positions[:here],
        labels=row.labels[:here],
        weights=row.weights[:here],
    )


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same(rows: list[Row]) -> None:
    for row in (rows[0], rows[-1]):
        here, there = to_batch(row), to_batch(row, "cuda")
        for name in NAMES:
            assert getattr(there, name).device.type == "cuda"
            assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
