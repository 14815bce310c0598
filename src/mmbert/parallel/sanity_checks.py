"""Consistency checks across ranks, cheap enough to run every N steps in training.

Copies are compared by digests of their bits, so that a check communicates a few bytes per
parameter. The functions return the problems found; those that take a group return the same on all
its ranks. `require_sane` then fails on every process of the grid, so that none is left waiting.
"""

import math
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.parallel.collectives import all_gather_tokens, all_reduce
from mmbert.parallel.parameter_spec import ParameterSpec, spec_of
from mmbert.parallel.process_grid import Group, ProcessGrid

# Elements digested at a time: their 64-bit copies take 32 MiB.
DIGEST_BLOCK = 1 << 22
# The two odd 64-bit multipliers of splitmix64, as signed numbers.
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIX = 0xBF58476D1CE4E5B9 - (1 << 64)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class SanityError(RuntimeError):
    """A violated invariant, after which the run's results cannot be trusted."""


def require_sane_model(
    model: nn.Module,
    grid: ProcessGrid,
    *,
    partitions: Mapping[str, Tensor] | None = None,
    rows: Mapping[str, Tensor] | None = None,
) -> None:
    """Run all checks of a model in training; SanityError on every process if one fails.

    Collective. `partitions`: this rank's partitions of the parameters by name under ZeRO 3, where
    the parameters themselves are released. `rows`: this rank's training data, which must be equal
    on its tensor group.
    """
    named = dict(model.named_parameters())
    specs = {name: spec_of(parameter) for name, parameter in named.items()}
    problems = check_gradient_ownership(model, grid.tensor) + check_parameters(
        named if partitions is None else partitions,
        specs,
        grid,
        partitioned_over_data=partitions is not None,
    )
    problems += check_same(rows or {}, grid.tensor, "rows on tensor ranks")
    require_sane(problems, grid, next(iter(named.values())).device)


def check_parameters(
    parameters: Mapping[str, Tensor],
    specs: Mapping[str, ParameterSpec],
    grid: ProcessGrid,
    *,
    partitioned_over_data: bool = False,
) -> list[str]:
    """Check that copies of parameters are bitwise equal and all values finite. Collective.

    Replicated parameters are compared on the tensor group, all parameters on the data group.
    `parameters`: this rank's shards by name. With `partitioned_over_data` (ZeRO 3): its partitions
    of them, which differ between data ranks and are not compared there.
    """
    replicated = {n: p for n, p in parameters.items() if not specs[n].is_split}
    problems = check_same(replicated, grid.tensor, "replicated parameters on tensor ranks")
    if not partitioned_over_data:
        problems += check_same(parameters, grid.data, "parameters on data ranks")
    return problems + check_finite(parameters)


def check_same(tensors: Mapping[str, Tensor], group: Group, what: str) -> list[str]:
    """Report tensors that are not bitwise equal on all ranks of the group. Collective."""
    if group.size == 1 or not tensors:
        return []
    digests = torch.stack([digest(tensor) for tensor in tensors.values()])
    gathered = all_gather_tokens(digests[None], group)
    differs = (gathered != gathered[:1]).any(dim=2).any(dim=0).tolist()
    names = [name for name, different in zip(tensors, differs, strict=True) if different]
    return [f"{what} differ: {_list(names)}"] if names else []


def check_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Report tensors with an infinity or NaN on this rank, without communication."""
    if not tensors:
        return []
    finite = torch.stack([torch.isfinite(t.detach()).all() for t in tensors.values()]).tolist()
    names = [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]
    return [f"not finite: {_list(names)}"] if names else []


def check_gradient_ownership(model: nn.Module, group: Group) -> list[str]:
    """Report parameters whose gradient elements are not counted exactly once on the tensor group.

    DeepSpeed counts a parameter for the global norm on every tensor rank if it is flagged
    `tensor_model_parallel`, else on rank 0 only. A split parameter must therefore be flagged and a
    replicated one must not. Shapes are those of the specs, because ZeRO 3 empties the parameters.
    """
    names, owned, full = [], [], []
    for name, parameter in model.named_parameters():
        spec = spec_of(parameter)
        flagged = bool(getattr(parameter, "tensor_model_parallel", False))
        counted = flagged or group.rank == 0
        names.append(name)
        owned.append(math.prod(spec.local_shape(group.rank, group.size)) * counted)
        full.append(math.prod(spec.full_shape))
    device = next(model.parameters()).device
    totals = all_reduce(torch.tensor(owned, dtype=torch.int64, device=device), group).tolist()
    return [
        f"gradient of {name}: the norm counts {total} elements instead of {expected}"
        for name, total, expected in zip(names, totals, full, strict=True)
        if total != expected
    ]


def require_sane(problems: Iterable[str], grid: ProcessGrid, device: torch.device) -> None:
    """Raise SanityError on every process if any rank has problems, listing all. Collective."""
    found = list(problems)
    count = torch.tensor([len(found)], dtype=torch.int64, device=device)
    if not int(all_reduce(all_reduce(count, grid.tensor), grid.data).item()):
        return
    gathered: list[list[str] | None] = [found]
    if grid.world_size > 1:
        gathered = [None] * grid.world_size
        dist.all_gather_object(gathered, found)
    ranks_by_problem: dict[str, list[int]] = {}
    for rank, texts in enumerate(gathered):
        for text in texts or ():
            ranks_by_problem.setdefault(text, []).append(rank)
    raise SanityError(
        "; ".join(f"{text} (on ranks {ranks})" for text, ranks in ranks_by_problem.items())
    )


def digest(tensor: Tensor) -> Tensor:
    """Return a hash of the tensor's bits and their positions, int64 [2]."""
    words = tensor.detach().contiguous().flatten().view(BITS[tensor.element_size()])
    sums = torch.zeros(2, dtype=torch.int64, device=words.device)
    for start in range(0, words.numel(), DIGEST_BLOCK):
        block = words[start : start + DIGEST_BLOCK].to(torch.int64)
        # Nonlinear in both word and position, so that no pattern of changes cancels.
        places = torch.arange(start, start + block.numel(), device=words.device)
        mixed = (block + places * GOLDEN) * MIX
        mixed = (mixed ^ (mixed >> 31)) * GOLDEN
        sums += torch.stack((block.sum(), (mixed ^ (mixed >> 29)).sum()))
    return sums


def _list(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
