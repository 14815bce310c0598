"""The model is the same on one process and on two or four, with and without sequence parallelism.

Everything here is float32 on CPU with gloo and dropout on. Weights' updates over data ranks and
ZeRO stages are tested with the engine; here the optimiser is plain AdamW on each rank's share.
"""

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from distributed import run_ranks
from mmbert.model.config import EncoderConfig
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.description import assemble, describe
from mmbert.parallel.grid import TensorGroup, build_grid
from tests.model.tiny_models import BASES, random_row, tiny_config, tiny_model

STEPS = 10
GRIDS = [(2, False), (2, True), (4, False), (4, True)]


@dataclass
class Outcome:
    """What one rank saw: its shares by parameter name, and what must be the same on all."""

    logits: Tensor
    losses: Tensor
    gradient_norm: float
    first_weights: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    last_weights: dict[str, Tensor] = field(default_factory=dict)
    replicated_stayed_equal: bool = True


def train(model: MaskedLanguageModel) -> Outcome:
    """Ten steps of AdamW; the shares of the first gradient and of the weights before and after."""
    row = random_row(seed=1)
    outcome = Outcome(
        logits=model.logits(row, rotary_bases=BASES, all_tokens=True),
        losses=torch.empty(0),
        gradient_norm=0.0,
        first_weights={n: p.detach().clone() for n, p in model.named_parameters()},
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-5)
    for step in range(STEPS):
        row = random_row(seed=step, row_index=step)
        losses = model(row, rotary_bases=BASES, dropout_seed=7)
        (losses.sum() / row.weights.sum()).backward()
        if step == 0:
            outcome.losses = losses.detach()
            outcome.gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
            outcome.gradient_norm = gradient_norm(model)
        optimizer.step()
        optimizer.zero_grad()
        outcome.replicated_stayed_equal &= replicated_are_equal(model)
    outcome.last_weights = {n: p.detach() for n, p in model.named_parameters()}
    return outcome


def gradient_norm(model: MaskedLanguageModel) -> float:
    """As DeepSpeed takes it: flagged parameters on every rank, the others on the first alone."""
    total = torch.zeros(())
    for parameter in model.parameters():
        if parameter.tensor_model_parallel or model.group.rank == 0:
            total += parameter.grad.square().sum()
    if model.group.size > 1:
        dist.all_reduce(total, group=model.group.group)
    return total.sqrt().item()


def replicated_are_equal(model: MaskedLanguageModel) -> bool:
    """Whether every replicated parameter has the same bits on all ranks of the group."""
    if model.group.size == 1:
        return True
    for parameter in model.parameters():
        if not describe(parameter).is_split:
            copies = [torch.empty_like(parameter) for _ in range(model.group.size)]
            dist.all_gather(copies, parameter.detach(), group=model.group.group)
            if not all(torch.equal(copies[0], copy) for copy in copies):
                return False
    return True


def train_on_rank(
    rank: int, world_size: int, sequence_parallel: bool, config: EncoderConfig, sabotage: str
) -> bytes:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    group = build_grid(tensor_parallel=world_size).tensor
    model = tiny_model(config, group, sequence_parallel=sequence_parallel)
    SABOTAGES[sabotage](model)
    return as_bytes(train(model))


def as_bytes(outcome: Outcome) -> bytes:
    """Tensors must not travel by shared memory from a process that ends at once."""
    buffer = io.BytesIO()
    torch.save(outcome, buffer)
    return buffer.getvalue()


def run_grid(
    tensor_parallel: int, sequence_parallel: bool, config: EncoderConfig, sabotage: str = "none"
) -> dict[int, Outcome]:
    results = run_ranks(train_on_rank, tensor_parallel, sequence_parallel, config, sabotage)
    return {
        rank: torch.load(io.BytesIO(result), weights_only=False) for rank, result in results.items()
    }


def nothing(model: MaskedLanguageModel) -> None:
    pass


def remove_hooks(model: MaskedLanguageModel) -> None:
    for handle in model.gradient_hooks:
        handle.remove()


SABOTAGES: dict[str, Any] = {"none": nothing, "hooks removed": remove_hooks}


def compare(config: EncoderConfig, ranks: dict[int, Outcome], alone: Outcome) -> dict[str, float]:
    """The largest relative difference of each kind between the ranks' outcome and one process's."""
    model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    descriptions = {name: describe(p) for name, p in model.named_parameters()}

    def worst(kind: str) -> float:
        differences = []
        for name, expected in getattr(alone, kind).items():
            shares = [getattr(ranks[rank], kind)[name] for rank in sorted(ranks)]
            full = assemble(shares, descriptions[name])
            differences.append(((full - expected).norm() / expected.norm()).item())
        return max(differences)

    first = ranks[0]
    return {
        "logits": ((first.logits - alone.logits).norm() / alone.logits.norm()).item(),
        "losses": ((first.losses - alone.losses).norm() / alone.losses.norm()).item(),
        "gradient_norm": abs(first.gradient_norm / alone.gradient_norm - 1),
        "first_weights": worst("first_weights"),
        "gradients": worst("gradients"),
        "last_weights": worst("last_weights"),
    }


@pytest.fixture(scope="module")
def alone() -> Outcome:
    return train(tiny_model())


@pytest.mark.parametrize(("tensor_parallel", "sequence_parallel"), GRIDS)
def test_every_grid_trains_as_one_process(
    tensor_parallel: int, sequence_parallel: bool, alone: Outcome
) -> None:
    config = tiny_config()
    ranks = run_grid(tensor_parallel, sequence_parallel, config)
    difference = compare(config, ranks, alone)
    print(difference)
    assert difference["first_weights"] == 0
    for kind in ("logits", "losses", "gradient_norm", "gradients"):
        assert difference[kind] < 1e-5, difference
    assert difference["last_weights"] < 1e-4
    assert all(outcome.replicated_stayed_equal for outcome in ranks.values())
