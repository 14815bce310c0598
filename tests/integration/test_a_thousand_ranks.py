"""1,024 simulated ranks: together they read every row and write every element, none twice."""

import json
import pickle
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from mmbert.checkpoint.staging import HostStaging
from mmbert.data.loading.data_state import gather_states, merge_states
from mmbert.data.loading.loader import DataState, RowLoader
from mmbert.data.loading.row_source import rows_of_rank
from mmbert.data.shards.corpus import Corpus
from mmbert.model.config import encoder_config
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan
from tests.support.corpora import write_corpus
from tests.support.simulated_ranks import (
    fragments_of_data_rank,
    simulated_engine,
    simulated_rank,
)

RANKS = 1024


def recipe(tensor: int = 1) -> Recipe:
    """Return a recipe whose batch fits 1,024 ranks, growing from one row a rank to two."""
    return Recipe.model_validate(
        {
            "name": "wide",
            "precision": "bfloat16",
            "model": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            "data": {"sources": [{"name": "text"}]},
            "batch": {
                "row_tokens": 64,
                "rows": 2 * RANKS,
                "quantum": RANKS,
                "growth": {"tokens": 250_000, "from_rows": RANKS},
            },
            "optimizer": {"name": "stable_adamw", "learning_rate": 1e-3},
            "parallel": {"tensor": tensor, "zero_stage": 1},
            "phases": [
                {
                    "name": "only",
                    "tokens": 400_000,
                    "context": 64,
                    "languages": "all",
                    "temperature": 0.5,
                    "mask_ratio": 0.3,
                    "rotary_bases": {"global": 10_000, "local": 10_000},
                }
            ],
        }
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    lengths = np.random.default_rng(0).integers(5, 60, 2000).tolist()
    languages = {f"l{number:02d}_Latn": lengths[number::20] for number in range(20)}
    return write_corpus(tmp_path_factory.mktemp("corpus"), {"text": languages}, contexts=(64,))


def test_the_ranks_read_every_row_once_and_equally_many() -> None:
    plan = training_plan(recipe())
    rows_by_step: dict[int, list[int]] = defaultdict(list)
    for rank in range(RANKS):
        for step, rows in rows_of_rank(plan, plan.phases[0], 0, rank, RANKS):
            assert len(rows) == plan.at(step).rows // RANKS
            rows_by_step[step] += rows
    assert sorted(rows_by_step) == list(range(plan.steps))
    assert {len(rows) for rows in rows_by_step.values()} == {RANKS, 2 * RANKS}
    everything = sorted(row for rows in rows_by_step.values() for row in rows)
    assert everything == list(range(plan.phases[0].rows))
    for step, found in rows_by_step.items():
        assert min(found) == plan.at(step).first_row


def test_a_rank_of_many_reads_what_one_alone_reads(corpus: Corpus) -> None:
    plan = training_plan(recipe())

    def rows(rank: int, ranks: int, count: int) -> list[Any]:
        loader = RowLoader(corpus, recipe(), plan, data_rank=rank, data_ranks=ranks)
        return [row for row, _ in zip(loader, range(count), strict=False)]

    alone = {row.index: row.input_ids for row in rows(0, 1, RANKS)}
    for rank in (0, 511, 1023):
        own = rows(rank, RANKS, 1)
        assert [row.index for row in own] == [rank]
        for row in own:
            np.testing.assert_array_equal(row.input_ids, alone[row.index])


def test_states_of_all_ranks_are_gathered_without_what_they_share(corpus: Corpus) -> None:
    plan = training_plan(recipe())
    states: list[DataState] = [
        RowLoader(corpus, recipe(), plan, data_rank=rank, data_ranks=4).state_after(-1)
        for rank in range(4)
    ]
    messages: list[Any] = []

    def send(own: Any) -> list[Any]:
        messages.append(own)
        return [own]

    for state in states:
        gather_states(state, send)
    assert len(pickle.dumps(messages[0])) < len(pickle.dumps(states[0]["streams"])) + 1000
    assert merge_states(gather_states(states[2], lambda _: messages)) == merge_states(states)
    other = json.loads(json.dumps(states[0]))
    other["checksums"][3] = "0" * 16
    with pytest.raises(ValueError, match="different ranks differ in checksums"):
        gather_states(other, lambda _: messages)


def test_the_checkpoint_shares_cover_every_element_once() -> None:
    tensor = 2
    settings, data_ranks = recipe(tensor), RANKS // tensor
    shares: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    sizes: dict[tuple[str, int], int] = {}
    lengths = []
    for tensor_rank in range(tensor):
        with simulated_rank(tensor_rank, RANKS):
            grid = build_grid(tensor_parallel=tensor)
            encoder = encoder_config(settings.model, 2048)
            model = MaskedLanguageModel(encoder, grid.tensor, sequence_parallel=False)
            engine = simulated_engine(model, settings, grid)
            for data_rank in range(data_ranks):
                fragments = fragments_of_data_rank(engine, data_rank)
                specs = HostStaging().stage(fragments, torch.device("cpu"))
                lengths.append(sum(spec.length for spec in specs))
                for spec in specs:
                    assert spec.states == ("master", "exp_avg", "exp_avg_sq")
                    shares[spec.name, spec.tensor_rank].append((spec.start, spec.length))
            for spec in engine.specs:
                if spec.is_split or tensor_rank == 0:
                    local = spec.local_shape(tensor_rank, tensor)
                    sizes[spec.name, tensor_rank] = int(np.prod(local))
    assert len(lengths) == RANKS
    assert set(shares) == set(sizes)
    for key, slices in shares.items():
        end = 0
        for start, length in sorted(slices):
            assert start == end
            end += length
        assert end == sizes[key]
    # None writes much more than its part.
    assert max(lengths) <= 1.2 * sum(lengths) / RANKS + 8
