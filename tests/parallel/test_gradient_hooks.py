"""All-reduced gradients of replicated weights on sharded tokens, at every ZeRO stage.

The hooks work if registered before or after deepspeed.initialize. Without them the copies drift
apart, which the loss does not show.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.parallel.gradient_hooks import all_reduce_partial_gradients
from mmbert.parallel.layers import (
    ColumnParallelLinear,
    LayerNorm,
    RowParallelLinear,
    TensorParallel,
)
from mmbert.parallel.parameter_spec import name_parameters
from mmbert.parallel.process_grid import ProcessGrid, TensorGroup, build_grid
from tests.support.ranks import run_ranks

WIDTH, TOKENS, STEPS = 8, 12, 3


class Block(nn.Module):
    """A norm on sharded tokens followed by a column-parallel and a row-parallel linear."""

    def __init__(self, group: TensorGroup) -> None:
        super().__init__()
        parallel = TensorParallel(group, sequence=True)
        self.norm = LayerNorm(WIDTH, parallel, eps=1e-5, sequence_parallel=True)
        self.up = ColumnParallelLinear(WIDTH, (16,), parallel, std=1.0)
        self.down = RowParallelLinear(16, WIDTH, parallel, std=1.0)
        name_parameters(self)
        generator = torch.Generator().manual_seed(0)
        up = torch.randn(16, WIDTH, generator=generator) / 3
        down = torch.randn(WIDTH, 16, generator=generator) / 3
        with torch.no_grad():
            self.norm.weight.fill_(1)
            self.up.weight.copy_(up.chunk(group.size)[group.rank])
            self.down.weight.copy_(down.chunk(group.size, dim=1)[group.rank])

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm.norm(x)
        return self.down(torch.tanh(self.up(normed))).square().sum()


def tokens(step: int) -> Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(step + 1))


class ModelParallelUnit:
    """The interface that DeepSpeed expects of a grid."""

    def __init__(self, grid: ProcessGrid) -> None:
        self.get_model_parallel_rank = lambda: grid.tensor.rank
        self.get_model_parallel_world_size = lambda: grid.tensor.size
        self.get_model_parallel_group = lambda: grid.tensor.group
        self.get_data_parallel_rank = lambda: grid.data.rank
        self.get_data_parallel_world_size = lambda: grid.data.size
        self.get_data_parallel_group = lambda: grid.data.group


def train_on_rank(
    rank: int, world_size: int, hooks: str, stage: int
) -> tuple[list[float], list[list[float]]]:
    """Return the global gradient norm and the norm's weight after every step."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False)
    grid = build_grid(tensor_parallel=world_size)
    block = Block(grid.tensor)
    if hooks == "before":
        all_reduce_partial_gradients(block, grid.tensor)
    engine, *_ = deepspeed.initialize(
        model=block,
        optimizer=torch.optim.SGD(block.parameters(), lr=0.05),
        mpu=ModelParallelUnit(grid),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": 0.0,
            "steps_per_print": 10**9,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
        },
    )
    if hooks == "after":
        all_reduce_partial_gradients(block, grid.tensor)
    norms, weights = [], []
    for step in range(STEPS):
        mine = tokens(step).chunk(world_size)[rank]
        engine.backward(engine(mine))
        engine.step()
        norms.append(float(engine.get_global_grad_norm()))
        weight = block.norm.weight
        with deepspeed.zero.GatheredParameters(weight, enabled=stage == 3):
            weights.append(weight.detach().tolist())
    return norms, weights


def train_alone() -> tuple[list[float], list[list[float]]]:
    block = Block(TensorGroup.single())
    optimizer = torch.optim.SGD(block.parameters(), lr=0.05)
    norms, weights = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        block(tokens(step)).backward()
        norms.append(torch.stack([p.grad.norm() for p in block.parameters()]).norm().item())
        optimizer.step()
        weights.append(block.norm.weight.tolist())
    return norms, weights


@pytest.mark.parametrize(("hooks", "stage"), [("before", 1), ("after", 2), ("before", 3)])
def test_the_hooks_give_one_process_results(hooks: str, stage: int) -> None:
    assert not dist.is_initialized()
    norms, weights = train_alone()
    results = run_ranks(train_on_rank, 2, hooks, stage)
    for rank_norms, rank_weights in results.values():
        assert rank_norms == pytest.approx(norms, rel=1e-5)
        for got, expected in zip(rank_weights, weights, strict=True):
            assert got == pytest.approx(expected, rel=1e-5)
    assert results[0][1] == results[1][1]


def test_without_the_hooks_the_copies_drift_apart() -> None:
    """Negative control: the comparison above detects a missing hook."""
    results = run_ranks(train_on_rank, 2, "none", 1)
    assert results[0][1] != results[1][1]
    assert results[0][0] != pytest.approx(train_alone()[0], rel=1e-5)


def norm_gradient_on_rank(rank: int, world_size: int) -> list[float]:
    """Return the gradient of a bfloat16 norm; for each entry one rank has the large part."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    parallel = TensorParallel(build_grid(tensor_parallel=world_size).tensor, sequence=True)
    norm = LayerNorm(WIDTH, parallel, eps=1e-5, sequence_parallel=True)
    name_parameters(norm)
    norm.to(torch.bfloat16)
    all_reduce_partial_gradients(norm, parallel.group)
    large = torch.arange(WIDTH) % world_size == rank
    part = torch.where(large, 1.0, 1.5 * 2**-9).to(torch.bfloat16)
    (norm.weight * part).sum().backward()
    assert norm.weight.grad is not None
    return norm.weight.grad.tolist()


def test_partial_bfloat16_gradients_are_rounded_once() -> None:
    """In bfloat16, adding each small part to the large one would not change it."""
    exact = torch.tensor(1 + 2 * 1.5 * 2**-9).to(torch.bfloat16).item()
    assert exact > 1
    for gradient in run_ranks(norm_gradient_on_rank, 3).values():
        assert gradient == [exact] * WIDTH
