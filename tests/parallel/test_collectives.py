"""Conjugate pairs of collectives: values and gradients equal those in one process.

In every case each of four ranks applies the collective to its own tensor and weights the result by
its own factors; the reference computes the same function for all ranks at once and differentiates
it by autograd.
"""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mmbert.parallel import collectives
from mmbert.parallel.linear import column_linear, row_linear
from mmbert.parallel.process_grid import Group, TensorGroup, build_grid
from tests.support.ranks import run_ranks

RANKS = 4
TOKENS, WIDTH = 8, 6


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shares(x: Tensor) -> list[Tensor]:
    return list(x.chunk(RANKS))


# All ranks' outputs from all ranks' inputs. If the inputs are replicated, the gradient of a rank's
# copy is that of the single tensor.
PAIRS: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "copy_to_group": lambda x: x,
    "reduce_from_group": lambda x: [sum(x)] * RANKS,  # type: ignore[list-item]
    "reduce_scatter_tokens": lambda x: shares(sum(x)),  # type: ignore[arg-type]
    "gather_tokens_for_replicated": lambda x: [torch.cat(x)] * RANKS,
}
REPLICATED_INPUT = {"copy_to_group"}
REPLICATED_OUTPUT = {"reduce_from_group", "gather_tokens_for_replicated"}


def inputs(name: str) -> list[Tensor]:
    seeds = [0] * RANKS if name in REPLICATED_INPUT else list(range(RANKS))
    return [numbers(seed, TOKENS, WIDTH) for seed in seeds]


def weights(name: str, shape: torch.Size, rank: int) -> Tensor:
    return numbers(100 if name in REPLICATED_OUTPUT else 100 + rank, *shape)


def pairs_on_rank(rank: int, world_size: int) -> dict[str, tuple[list, list]]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    group = build_grid(tensor_parallel=world_size).tensor
    results = {}
    for name in PAIRS:
        x = inputs(name)[rank].requires_grad_()
        y = getattr(collectives, name)(x, group)
        y.backward(weights(name, y.shape, rank))
        results[name] = (y.tolist(), x.grad.tolist())
    return results


def reference(name: str) -> tuple[list[Tensor], list[Tensor]]:
    x = inputs(name)
    if name in REPLICATED_INPUT:
        x = [x[0]] * RANKS
    leaves = {id(t): t.requires_grad_() for t in x}
    outputs = PAIRS[name](x)
    # A replicated output is a single tensor, so its gradient counts once.
    counted = outputs[:1] if name in REPLICATED_OUTPUT else outputs
    total = sum((y * weights(name, y.shape, rank)).sum() for rank, y in enumerate(counted))
    total.backward()  # type: ignore[union-attr]
    assert leaves
    return outputs, [t.grad for t in x]  # type: ignore[misc]


def test_the_pairs_are_conjugate() -> None:
    results = run_ranks(pairs_on_rank, RANKS)
    for name in PAIRS:
        outputs, gradients = reference(name)
        for rank in range(RANKS):
            y, gradient = (torch.tensor(v, dtype=torch.float64) for v in results[rank][name])
            torch.testing.assert_close(y, outputs[rank], rtol=1e-12, atol=1e-12, msg=name)
            torch.testing.assert_close(gradient, gradients[rank], rtol=1e-12, atol=1e-12, msg=name)


def linears_on_rank(rank: int, world_size: int, sequence_parallel: bool) -> list[list]:
    """Run a column-parallel linear, a nonlinearity and a row-parallel linear."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    group = build_grid(tensor_parallel=world_size).tensor
    x, up, down, upstream = mlp_numbers()
    mine = x.chunk(world_size)[rank] if sequence_parallel else x
    mine = mine.clone().requires_grad_()
    my_up = up.chunk(world_size)[rank].clone().requires_grad_()
    my_down = down.chunk(world_size, dim=1)[rank].clone().requires_grad_()
    inner = torch.tanh(column_linear(mine, my_up, group, sequence_parallel=sequence_parallel))
    y = row_linear(inner, my_down, group, sequence_parallel=sequence_parallel)
    y.backward(upstream.chunk(world_size)[rank] if sequence_parallel else upstream)
    return [t.tolist() for t in (y, mine.grad, my_up.grad, my_down.grad)]


def mlp_numbers() -> tuple[Tensor, ...]:
    return (
        numbers(1, TOKENS, WIDTH),
        numbers(2, 12, WIDTH),
        numbers(3, WIDTH, 12),
        numbers(4, TOKENS, WIDTH),
    )


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_column_then_row_is_the_whole_map(sequence_parallel: bool) -> None:
    x, up, down, upstream = mlp_numbers()
    for leaf in (x, up, down):
        leaf.requires_grad_()
    y = torch.tanh(x @ up.t()) @ down.t()
    y.backward(upstream)
    results = run_ranks(linears_on_rank, 2, sequence_parallel)
    for rank, result in results.items():
        tokens = (lambda t, r=rank: t.chunk(2)[r]) if sequence_parallel else (lambda t: t)
        expected = (tokens(y), tokens(x.grad), up.grad.chunk(2)[rank], down.grad.chunk(2, 1)[rank])
        for got, wanted in zip(result, expected, strict=True):
            torch.testing.assert_close(
                torch.tensor(got, dtype=torch.float64), wanted, rtol=1e-12, atol=1e-12
            )


def test_one_rank_communicates_nothing() -> None:
    """torch.distributed is not initialized here, so that communication would raise."""
    assert not dist.is_initialized()
    alone: Group = TensorGroup.single()
    x = numbers(0, TOKENS, WIDTH)
    for name in PAIRS:
        assert getattr(collectives, name)(x, alone) is x
    up = numbers(2, 12, WIDTH)
    for sequence_parallel in (False, True):
        y = column_linear(x, up, alone, sequence_parallel=sequence_parallel)
        torch.testing.assert_close(y, x @ up.t())
