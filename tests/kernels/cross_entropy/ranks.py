"""Linear cross-entropy over real processes, each with a range of the vocabulary."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert_kernels import linear_cross_entropy
from tests.kernels.cases.linear_cross_entropy import formula
from tests.kernels.comparison import assert_close
from tests.support.ranks import run_ranks

ENDS = {2: (0, 37, 101), 3: (0, 1, 60, 101)}


def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return hidden, weight, bias, labels and weights; maxima and labels are on different ranks."""
    generator = torch.Generator().manual_seed(21)
    hidden = torch.randn(23, 16, generator=generator)
    weight = torch.randn(101, 16, generator=generator)
    weight[:37] *= 6  # maxima and most of the sums are on the first rank
    labels = torch.randint(0, 101, (23,), generator=generator)
    labels[:3] = torch.tensor([0, 36, 100])
    weights = torch.ones(23)
    weights[7] = 0
    return hidden, weight, torch.randn(101, generator=generator), labels, weights


def one_rank(rank: int, world_size: int, chunk: int, kernels: str) -> tuple[Any, ...]:
    os.environ["MMBERT_KERNELS"] = kernels
    dist.init_process_group("gloo")
    hidden, weight, bias, labels, weights = arguments()
    start, stop = ENDS[world_size][rank : rank + 2]
    leaves = [hidden.clone(), weight[start:stop].clone(), bias[start:stop].clone()]
    for leaf in leaves:
        leaf.requires_grad_()
    losses = linear_cross_entropy(
        *leaves, labels, weights=weights, vocab_start=start, group=dist.group.WORLD, chunk=chunk
    )
    losses.mean().backward()
    dist.all_reduce(leaves[0].grad)  # each rank has a partial gradient of hidden
    return losses.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)


def check_ranks(ranks: int, chunk: int, kernels: str) -> None:
    """Assert that all ranks' losses and gradients match those of the formula."""
    results = run_ranks(one_rank, ranks, chunk, kernels)
    hidden, weight, bias, labels, weights = arguments()
    leaves = [each.double().requires_grad_() for each in (hidden, weight, bias)]
    true = formula(*leaves, labels, weights)
    true.mean().backward()
    for rank, values in results.items():
        losses, of_hidden, of_weight, of_bias = (torch.from_numpy(value) for value in values)
        start, stop = ENDS[ranks][rank : rank + 2]
        assert_close("losses", losses, true.detach(), 64)
        assert_close("hidden", of_hidden, leaves[0].grad, 64)
        assert_close("weight", of_weight, leaves[1].grad[start:stop], 64)
        assert_close("bias", of_bias, leaves[2].grad[start:stop], 64)
        assert (losses == torch.from_numpy(results[0][0])).all()
