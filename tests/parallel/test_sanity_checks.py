"""Consistency checks: every injected fault is found, and none without a fault."""

import math

import pytest
import torch
import torch.distributed as dist

from mmbert.parallel.layers import LayerNorm, RowParallelLinear, TensorParallel
from mmbert.parallel.parameter_spec import name_parameters, spec_of
from mmbert.parallel.process_grid import ProcessGrid, TensorGroup, build_grid
from mmbert.parallel.sanity_checks import (
    SanityError,
    check_finite,
    check_gradient_ownership,
    check_parameters,
    check_same,
    digest,
    require_sane,
    require_sane_model,
)
from tests.support.ranks import run_ranks


def small_module(group: TensorGroup) -> torch.nn.Module:
    """Create one replicated and one split parameter, filled with values of the tensor rank."""
    parallel = TensorParallel(group, sequence=True)
    module = torch.nn.Module()
    module.norm = LayerNorm(8, parallel, eps=1e-5, sequence_parallel=True)
    module.linear = RowParallelLinear(8, 4, parallel, std=1.0)
    name_parameters(module)
    with torch.no_grad():
        module.norm.weight.fill_(1.5)
        module.linear.weight.fill_(group.rank)
    return module


def checks_on_rank(rank: int, world_size: int) -> dict[str, list[str]]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    grid = build_grid(tensor_parallel=2)
    found: dict[str, list[str]] = {}

    def parameters_of(module: torch.nn.Module) -> list[str]:
        specs = {n: spec_of(p) for n, p in module.named_parameters()}
        return check_parameters(dict(module.named_parameters()), specs, grid)

    def fresh() -> torch.nn.Module:
        return small_module(grid.tensor)

    found["sound"] = parameters_of(fresh()) + check_gradient_ownership(fresh(), grid.tensor)
    module = fresh()
    with torch.no_grad():
        if grid.tensor.rank == 1:
            module.norm.weight[3] += 2e-7  # the last bit of 1.5
    found["a replicated weight differs in its last bit"] = parameters_of(module)
    module = fresh()
    with torch.no_grad():
        if grid.data.rank == 1:
            # Two swapped elements, which a plain sum would miss.
            module.linear.weight[0, 0], module.linear.weight[0, 1] = 5.0, 6.0
        else:
            module.linear.weight[0, 0], module.linear.weight[0, 1] = 6.0, 5.0
    found["a split weight differs on data ranks"] = parameters_of(module)
    module = fresh()
    with torch.no_grad():
        module.linear.weight[1, 1] = math.inf
    found["an infinity"] = parameters_of(module)
    module = fresh()
    module.linear.weight.tensor_model_parallel = False
    found["a flag removed"] = check_gradient_ownership(module, grid.tensor)
    module = fresh()
    module.norm.weight.tensor_model_parallel = True
    found["a flag too many"] = check_gradient_ownership(module, grid.tensor)
    row = {"labels": torch.arange(4), "positions": torch.arange(4) + grid.tensor.rank}
    found["rows differ"] = check_same(row, grid.tensor, "rows on tensor ranks")
    device = torch.device("cpu")
    require_sane_model(fresh(), grid)
    # Under ZeRO 3 data ranks hold different partitions, which are only checked to be finite.
    parts = {n: p.detach() + grid.data.rank for n, p in fresh().named_parameters()}
    require_sane_model(fresh(), grid, partitions=parts)
    require_sane(found["sound"], grid, device)
    try:
        require_sane(["my own"] if rank == 2 else [], grid, device)
        found["together"] = []
    except SanityError as error:
        found["together"] = [str(error)]
    return found


@pytest.fixture(scope="module")
def found() -> dict[int, dict[str, list[str]]]:
    return run_ranks(checks_on_rank, 4)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "a replicated weight differs in its last bit",
            "replicated parameters on tensor ranks differ: norm.weight",
        ),
        (
            "a split weight differs on data ranks",
            "parameters on data ranks differ: linear.weight",
        ),
        ("an infinity", "not finite: linear.weight"),
        (
            "a flag removed",
            "gradient of linear.weight: the norm counts 16 elements instead of 32",
        ),
        (
            "a flag too many",
            "gradient of norm.weight: the norm counts 16 elements instead of 8",
        ),
        ("rows differ", "rows on tensor ranks differ: positions"),
    ],
)
def test_a_planted_fault_is_found_on_every_rank(
    found: dict[int, dict[str, list[str]]], fault: str, message: str
) -> None:
    for rank in range(4):
        assert found[rank][fault] == [message]


def test_a_sound_grid_passes(found: dict[int, dict[str, list[str]]]) -> None:
    assert all(found[rank]["sound"] == [] for rank in range(4))


def test_all_ranks_fail_together(found: dict[int, dict[str, list[str]]]) -> None:
    """Each reports every problem with its ranks."""
    assert all(found[rank]["together"] == ["my own (on ranks [2])"] for rank in range(4))


def test_one_process_needs_no_communication() -> None:
    module = small_module(TensorGroup.single())
    parameters = dict(module.named_parameters())
    specs = {n: spec_of(p) for n, p in parameters.items()}
    assert check_parameters(parameters, specs, ProcessGrid.single()) == []
    assert check_gradient_ownership(module, TensorGroup.single()) == []
    assert check_finite({"x": torch.tensor([1.0, math.nan])}) == ["not finite: x"]
    assert check_finite({}) == []
    require_sane_model(module, ProcessGrid.single())
    with torch.no_grad():
        module.linear.weight[0, 0] = math.nan
    with pytest.raises(SanityError, match=r"not finite: linear\.weight \(on ranks \[0\]\)"):
        require_sane_model(module, ProcessGrid.single())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_the_digest_sees_bits_and_their_places(dtype: torch.dtype) -> None:
    x = torch.arange(24).reshape(4, 6).to(dtype)
    swapped = x.flatten()[torch.tensor([1, 0, *range(2, 24)])].reshape(4, 6)
    assert torch.equal(digest(x), digest(x.clone()))
    assert not torch.equal(digest(x), digest(swapped))
    assert not torch.equal(digest(x), digest(-x))
    assert digest(x[:0]).tolist() == [0, 0]
    assert torch.equal(digest(x.t()), digest(x.t().contiguous()))


def test_the_digest_of_a_long_tensor_goes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(1000)
    whole = digest(x)
    monkeypatch.setattr("mmbert.parallel.sanity_checks.DIGEST_BLOCK", 64)
    assert torch.equal(digest(x), whole)
