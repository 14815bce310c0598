"""Routing of matrices to owners: every element once, on every grid, and evenly dealt."""

from dataclasses import replace

import numpy as np
import pytest

from mmbert.model.config import encoder_config
from mmbert.parallel.matrix_routing import (
    Holding,
    Routing,
    deal,
    matrices_of,
    newton_schulz_flops,
    route,
    rows_of,
)
from mmbert.parallel.parameter_spec import ParameterSpec
from mmbert.planner.matrix_exchange import _specs, exchange_cost, flat_holdings
from mmbert.recipe import ModelSettings
from tests.support.environment import ROOT
from tests.support.prescribed_gradients import ONES, SPECS

BASE = encoder_config(ModelSettings.model_validate({"preset": "base"}), 256_000)
SMALL = encoder_config(
    ModelSettings(hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=8),
    1000,
)


def routing_of(specs: list[ParameterSpec], tensor: int, data: int, zero_stage: int) -> Routing:
    holdings = flat_holdings(specs, tensor=tensor, data=data, zero_stage=zero_stage)
    return route(matrices_of(specs, tensor), holdings)


def specs_of_tests() -> list[ParameterSpec]:
    return [replace(spec, name=name) for name, spec in SPECS.items()]


@pytest.mark.parametrize("zero_stage", [1, 3])
@pytest.mark.parametrize(("tensor", "data"), [(1, 1), (1, 3), (2, 2), (4, 1), (2, 7), (1, 64)])
@pytest.mark.parametrize("model", ["tests", "small"])
def test_every_element_is_sent_once_and_returned_to_every_holder(
    model: str, tensor: int, data: int, zero_stage: int
) -> None:
    specs = specs_of_tests() if model == "tests" else list(_specs(SMALL))
    routing = routing_of(specs, tensor, data, zero_stage)
    ranks = range(tensor * data)
    for owner in ranks:
        for matrix in routing.owned_by(owner):
            full = np.zeros((matrix.rows, matrix.columns), int)
            for holder in ranks:
                for piece in routing.sent(holder, owner):
                    if piece.matrix == matrix.number:
                        block = matrix.blocks[piece.tensor_rank]
                        flat = np.zeros(block.rows * block.columns, int)
                        flat[piece.start : piece.start + piece.length] = 1
                        place = np.s_[
                            block.row : block.row + block.rows,
                            block.column : block.column + block.columns,
                        ]
                        full[place] += flat.reshape(block.rows, block.columns)
            assert (full == 1).all(), matrix
    held = [len(pieces) for pieces in routing.pieces]
    returned = [sum(len(routing.returned(owner, rank)) for owner in ranks) for rank in ranks]
    assert returned == held
    copies = sum(p.length for pieces in routing.pieces for p in pieces) - sum(
        matrix.rows * matrix.columns for matrix in routing.matrices
    )
    replicated = [m.rows * m.columns for m in routing.matrices if m.replicated]
    assert copies == (tensor - 1) * sum(replicated)


@pytest.mark.parametrize(("tensor", "data", "zero_stage"), [(1, 512, 1), (2, 256, 3)])
def test_five_hundred_ranks_share_the_matrices_of_base(
    tensor: int, data: int, zero_stage: int
) -> None:
    """Cut into far more pieces than matrices; `route` itself refuses gaps and overlaps."""
    routing = routing_of(list(_specs(BASE)), tensor, data, zero_stage)
    assert len(routing.pieces) == 512
    assert len(set(routing.owners)) == len(routing.matrices) == 155
    sent = sum(p.length for pieces in routing.pieces for p in pieces if routing.enters(p))
    assert sent == 110_886_912
    for rank, pieces in enumerate(routing.pieces):
        assert len({piece.matrix for piece in pieces}) == len(pieces), rank


def test_the_parts_are_those_of_the_fused_weights() -> None:
    """base: 22 layers of q, k, v, Wo, gate, up, Wo, and the head's dense."""
    matrices = matrices_of(_specs(BASE), 1)
    assert len(matrices) == 22 * 7 + 1
    assert sum(m.rows * m.columns for m in matrices) == 110_886_912
    assert sum(m.rows for m in matrices) == 135_936
    assert {(m.rows, m.columns) for m in matrices} == {(768, 768), (1152, 768), (768, 1152)}


def test_the_largest_are_dealt_first_and_ties_go_by_number() -> None:
    matrices = matrices_of(_specs(BASE), 1)
    owners = deal(matrices, 64)
    loads = [sum(m.flops for m, o in zip(matrices, owners, strict=True) if o == rank)
             for rank in range(64)]  # fmt: skip
    assert max(loads) - min(loads) <= max(m.flops for m in matrices)
    largest = [m.number for m in matrices if m.flops == max(one.flops for one in matrices)]
    assert [owners[number] for number in largest[:64]] == list(range(64))
    assert deal(matrices, 64) == owners
    # Per step X Xᵀ and (…) X take 2 · 768² · 1152 each, A A 2 · 768³.
    assert newton_schulz_flops(768, 1152) == newton_schulz_flops(1152, 768) == 18_119_393_280


def test_a_gap_or_an_overlap_of_what_the_ranks_hold_is_refused() -> None:
    specs = specs_of_tests()
    matrices = matrices_of(specs, 1)
    (holdings,) = flat_holdings(specs, tensor=1, data=1, zero_stage=1)
    for wrong in (holdings[1:], [*holdings, holdings[0]],
                  [Holding(*holdings[0][:3], holdings[0].length - 1), *holdings[1:]]):  # fmt: skip
        with pytest.raises(ValueError, match="is held by none or by several"):
            route(matrices, [wrong])
    fused = ParameterSpec((4, 6), ONES, group="matrices", split_dimension=1, fused_sizes=(3, 3))
    with pytest.raises(ValueError, match="fused along the columns"):
        matrices_of([fused], 1)


def test_rows_of_a_piece() -> None:
    routing = routing_of(specs_of_tests(), 2, 7, 1)
    for pieces in routing.pieces:
        for piece in pieces:
            matrix = routing.matrices[piece.matrix]
            block = matrix.blocks[piece.tensor_rank]
            flat = np.arange(block.rows * block.columns) // block.columns + block.row
            own = flat[piece.start : piece.start + piece.length]
            assert list(rows_of(piece, matrix)) == sorted(set(own.tolist()))


# GPUs: matrices of the busiest owner, owners, its FLOPs, bytes into it, out of a holder, pairs.
OF_BASE = {
    8: (20, 8, 308_029_685_760, 28_311_552, 67_562_624, 21),
    64: (3, 64, 45_298_483_200, 4_128_768, 9_616_784, 173),
    512: (1, 155, 18_119_393_280, 1_769_472, 1_202_290, 339),
}


@pytest.mark.parametrize("gpus", OF_BASE)
def test_costs_of_base(gpus: int) -> None:
    """Of the README's layouts: ZeRO 1 in bfloat16 without tensor parallelism (docs/recipes.md)."""
    cost = exchange_cost(
        BASE, tensor=1, data=gpus, zero_stage=1, bytes_per_element=2, row_factors=False
    )
    print(cost)
    assert (
        cost.most_on_an_owner,
        cost.owners,
        cost.most_flops,
        cost.most_into_an_owner,
        cost.most_from_a_holder,
        cost.pairs,
    ) == OF_BASE[gpus]
    assert cost.flops == 2_405_349_457_920
    # The way back is the same but for the rows' factors; no rank sends itself anything.
    rows = exchange_cost(
        BASE, tensor=1, data=gpus, zero_stage=1, bytes_per_element=2, row_factors=True
    )
    assert cost.bytes_returned == cost.bytes_sent <= 2 * 110_886_912
    assert 0 < rows.bytes_returned - cost.bytes_sent < 0.003 * cost.bytes_sent
    # Under 0.1% of the products of a step of 4.7M tokens with the matrices alone.
    assert cost.flops < 0.001 * 6 * 110_886_912 * 4.7e6


def test_the_table_of_the_documentation_is_what_is_counted() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for gpus, (parts, _, flops, into, out, pairs) in OF_BASE.items():
        sizes = f"{into / 1e6:.1f} MB | {out / 1e6:.1f} MB"
        assert f"| {gpus} | {parts} | {flops:.1e} | {sizes} | {pairs} |" in page
