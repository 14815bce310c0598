"""A model with prescribed gradients, for tests of the engine, optimizers and checkpoints.

Its loss is the inner product of the parameters with tensors in the batch, so the gradient of every
parameter is exactly what the test passes, by rank and microbatch.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    empty_parameter,
    local_slice,
    name_parameters,
)
from mmbert.parallel.process_grid import ProcessGrid, TensorGroup, build_grid
from mmbert.recipe import Recipe
from mmbert.training.engine.engine import Engine
from tests.support.assembling import assemble

ONES = InitialDistribution("ones")
# An unevenly split embedding, fused and plain column- and row-parallel weights, norms and a split
# bias. The sizes make ZeRO's partitions end within tensors.
SPECS = {
    "embeddings.weight": ParameterSpec(
        (29, 12), ONES, group="embedding", split_dimension=0, require_even=False
    ),
    "embeddings.norm": ParameterSpec((12,), ONES),
    "qkv.weight": ParameterSpec(
        (72, 12), ONES, group="matrices", split_dimension=0, fused_sizes=(24, 24, 24)
    ),
    "out.weight": ParameterSpec((12, 24), ONES, group="matrices", split_dimension=1, granularity=3),
    "gate.weight": ParameterSpec(
        (40, 12), ONES, group="matrices", split_dimension=0, fused_sizes=(20, 20)
    ),
    "down.weight": ParameterSpec((12, 20), ONES, group="matrices", split_dimension=1),
    "norm.weight": ParameterSpec((12,), ONES),
    "dense.weight": ParameterSpec((12, 12), ONES, group="matrices"),
    "decoder.bias": ParameterSpec((29,), ONES, split_dimension=0, require_even=False),
}


@dataclass(frozen=True)
class PrescribedBatch:
    """Full gradients by parameter name, for one microbatch of one data rank.

    Other parameters are not used in the forward pass.
    """

    gradients: dict[str, Tensor] = field(default_factory=dict)


class _Holder(nn.Module):
    """Parameters of a module, used in its own forward pass: ZeRO 3 gathers them only there."""

    def forward(self, gradients: dict[str, Tensor]) -> list[Tensor]:
        return [
            (parameter.float() * gradients[leaf]).sum()
            for leaf, parameter in self.named_parameters()
            if leaf in gradients
        ]


class PrescribedModel(nn.Module):
    """The parameters of SPECS and a loss that is linear in them."""

    def __init__(self, group: TensorGroup) -> None:
        super().__init__()
        self.group = group
        for name, spec in SPECS.items():
            module, leaf = name.split(".")
            if module not in self._modules:
                self.add_module(module, _Holder())
            setattr(getattr(self, module), leaf, empty_parameter(spec, group))
        name_parameters(self)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(self.local(name, initial_weight(name)))

    def local(self, name: str, full: Tensor) -> Tensor:
        """This tensor rank's share of a full tensor."""
        return local_slice(full, SPECS[name], self.group.rank, self.group.size)

    def forward(self, batch: PrescribedBatch, **_: Any) -> Tensor:
        local = {name: self.local(name, full) for name, full in batch.gradients.items()}
        products: list[Tensor] = []
        for module, holder in self.named_children():
            names = {leaf: f"{module}.{leaf}" for leaf, _ in holder.named_parameters()}
            products += holder({leaf: local[n] for leaf, n in names.items() if n in local})
        return torch.stack(products)


def seeded(text: str) -> torch.Generator:
    """Return a generator seeded by `text`."""
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def initial_weight(name: str) -> Tensor:
    """Return the full initial weight: float32 values that bfloat16 cannot represent."""
    return torch.randn(SPECS[name].full_shape, generator=seeded(name)) * 0.3


def recipe(**changes: Any) -> Recipe:
    """Build a recipe for the model; `changes` use double underscores: `optimizer__name="adamw"`."""
    values: dict[str, Any] = {
        "name": "test",
        "precision": "float32",
        "model": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        "batch": {"row_tokens": 64, "rows": 4, "quantum": 4},
        "optimizer": {
            "learning_rate": 1e-2,
            "betas": [0.9, 0.98],
            "eps": 1e-6,
            "weight_decay": 0.1,
        },
        "parallel": {"tensor": 1, "zero_stage": 1},
        "phases": [
            {
                "name": "only",
                "tokens": 10_000,
                "context": 32,
                "languages": "all",
                "temperature": 0.7,
                "mask_ratio": 0.3,
                "rotary_bases": {"global": 10_000, "local": 10_000},
            }
        ],
    }
    for key, value in changes.items():
        target, *rest = key.split("__")
        if rest:
            values[target][rest[0]] = value
        else:
            values[target] = value
    return Recipe.model_validate(values)


def start(rank: int, world_size: int, tensor_parallel: int) -> ProcessGrid:
    """Initialize the process group of a test's ranks and build its grid."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    return build_grid(tensor_parallel=tensor_parallel)


def prescribed_engine(grid: ProcessGrid, **changes: Any) -> Engine:
    """Create an engine with the prescribed model."""
    settings = recipe(parallel__tensor=grid.tensor.size, **changes)
    return Engine(PrescribedModel(grid.tensor), settings, grid, torch.device("cpu"))


def gather_shards(engine: Engine, state: str = "master") -> dict[str, list[Tensor]]:
    """Every tensor rank's share of each parameter's master (or optimizer state), on every rank."""
    entries = [
        (fragment.name, fragment.tensor_rank, fragment.start, fragment.states[state].clone())
        for fragment in engine.fragments()
    ]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, entries)
    size, gathered_shares = engine.grid.tensor.size, {}
    for spec in engine.specs:
        shares = []
        for rank in range(size):
            shape = spec.local_shape(rank, size)
            share = torch.full((torch.Size(shape).numel(),), float("nan"))
            for entry in gathered:
                for name, tensor_rank, begin, values in entry:
                    if name == spec.name and tensor_rank == rank:
                        share[begin : begin + len(values)] = values
            shares.append(share.view(shape))
        gathered_shares[spec.name] = shares
    return gathered_shares


def gather_full(engine: Engine, state: str = "master") -> dict[str, Tensor]:
    """Every parameter's full master (or optimizer state), on every rank, from all fragments."""
    full = {}
    for spec, shares in zip(engine.specs, gather_shards(engine, state).values(), strict=True):
        if not spec.is_split:
            assert all(torch.equal(share, shares[0]) for share in shares), spec.name
        full[spec.name] = assemble(shares, spec)
    return full
