"""Vocabulary-parallel layers with a vocabulary that is not divisible by the group's size."""

import pytest
import torch
import torch.distributed as dist

from mmbert.parallel.layers import (
    LayerNorm,
    TensorParallel,
    gather_all_tokens,
    gather_token_rows,
)
from mmbert.parallel.parameter_spec import local_slice, spec_of
from mmbert.parallel.process_grid import TensorGroup, build_grid
from mmbert.parallel.vocab_layers import (
    VocabParallelDecoder,
    VocabParallelEmbedding,
    vocabulary_granularity,
)
from tests.support.ranks import run_ranks

VOCABULARY, WIDTH, TOKENS = 16_451, 4, 12
Result = dict[str, list[float]]


def results(group: TensorGroup, sequence: bool) -> Result:
    """Embed tokens from both ends of the vocabulary and decode some of them."""
    parallel = TensorParallel(group, sequence)
    embedding = VocabParallelEmbedding(VOCABULARY, WIDTH, parallel, std=1.0)
    norm = LayerNorm(WIDTH, parallel, eps=1e-5, sequence_parallel=sequence)
    decoder = VocabParallelDecoder(embedding)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.fill_(1)
        for parameter in (embedding.weight, decoder.bias):
            spec = spec_of(parameter)
            full = torch.randn(spec.full_shape, generator=generator)
            parameter.copy_(local_slice(full, spec, group.rank, group.size))
    half = VOCABULARY // 2
    ids = torch.tensor([0, VOCABULARY - 1, half - 60, half + 60, 5, 6, 7, 8, 9, 10, 11, half])
    hidden = norm.norm(embedding(ids))
    if not embedding.is_sharded:
        torch.testing.assert_close(embedding(ids, lookup=norm.embed_norm), hidden)
    # Positions repeat and include every rank's tokens.
    rows = gather_token_rows(hidden, torch.tensor([0, 0, 5, 6, 11]), parallel)
    labels = torch.tensor([VOCABULARY - 1, 0, half, half + 1, 3])
    losses = decoder(rows, labels, torch.ones(5))
    losses.sum().backward()
    gradient = embedding.weight.grad
    assert gradient is not None
    squares = gradient.square().sum()
    if group.size > 1:
        dist.all_reduce(squares, group=group.group)
    return {
        "hidden": gather_all_tokens(hidden, parallel).flatten().tolist(),
        "rows": rows.flatten().tolist(),
        "losses": losses.tolist(),
        "logits": decoder(rows)[:, [0, 1, half, VOCABULARY - 1]].flatten().tolist(),
        "gradient": [squares.item()],
    }


def results_on_rank(rank: int, world_size: int) -> list[Result]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    group = build_grid(tensor_parallel=world_size).tensor
    return [results(group, sequence) for sequence in (False, True)]


def test_an_uneven_vocabulary_embeds_and_decodes_as_one_table() -> None:
    alone = results(TensorGroup.single(), False)
    for of_rank in run_ranks(results_on_rank, 2).values():
        for result in of_rank:
            assert result["hidden"] == pytest.approx(alone["hidden"], abs=1e-6)
            assert result["rows"] == pytest.approx(alone["rows"], abs=1e-6)
            assert result["losses"] == pytest.approx(alone["losses"], rel=1e-5)
            assert result["logits"] == pytest.approx(alone["logits"], rel=1e-5, abs=1e-5)
            assert result["gradient"] == pytest.approx(alone["gradient"], rel=1e-5)


def test_large_vocabularies_are_cut_at_multiples_of_64() -> None:
    group = TensorGroup.single()
    table = VocabParallelEmbedding(
        VOCABULARY, WIDTH, TensorParallel(group, sequence=False), std=1.0
    )
    ranges = [spec_of(table.weight).ranges(rank, 2)[0] for rank in range(2)]
    assert ranges == [(0, 8256), (8256, VOCABULARY)]
    assert vocabulary_granularity(500) == 1
