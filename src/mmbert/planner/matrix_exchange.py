"""Cost of Muon's exchange of matrices in a step: FLOPs, bytes and messages of a layout."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mmbert.hardware import Gpu
from mmbert.model.config import EncoderConfig
from mmbert.parallel.matrix_routing import Holding, Routing, matrices_of, route, rows_of

if TYPE_CHECKING:
    from mmbert.parallel.parameter_spec import ParameterSpec

# Assumed: seconds to launch a product (three in each of five Newton-Schulz steps), and of a message
# to another rank besides its bytes.
PRODUCTS = 15
PRODUCT_SECONDS = 10e-6
MESSAGE_SECONDS = 20e-6


@dataclass(frozen=True)
class RoutingCost:
    """Cost of a step's exchange; bytes leave or enter one rank, in one of the two messages."""

    matrices: int
    most_on_an_owner: int
    owners: int
    flops: int
    """Newton-Schulz FLOPs of all ranks together."""
    most_flops: int
    """Newton-Schulz FLOPs of the busiest owner."""
    bytes_sent: int
    """Of the momentum, to other ranks, over all ranks together."""
    bytes_returned: int
    most_from_a_holder: int
    """Bytes of the momentum that one holder sends to other ranks, at most."""
    most_into_an_owner: int
    most_from_an_owner: int
    most_into_a_holder: int
    pairs: int
    """Pairs of different ranks with a message of the momentum between them."""
    messages: int
    """Messages of one step between different ranks, there and back."""
    most_messages: int
    """Messages that one rank sends and receives, there and back, at most."""
    least_held: int
    """Elements of matrices on the rank that holds the fewest."""
    most_rows: int
    """Rows of the matrices of one owner, at most."""

    @property
    def most_bytes(self) -> int:
        """Bytes that leave or enter one rank in both messages, at most."""
        there = max(self.most_from_a_holder, self.most_into_an_owner)
        return there + max(self.most_from_an_owner, self.most_into_a_holder)

    def seconds(self, gpu: Gpu, *, gpus: int, mfu: float) -> float:
        """Estimate the time in a step, hidden behind nothing.

        The busiest owner's FLOPs at `mfu` and its products' launches, and the largest messages with
        the bandwidth of one GPU's network card, or within a node.
        """
        across = gpus > gpu.gpus_per_node
        bandwidth = gpu.inter_node_bandwidth if across else gpu.intra_node_bandwidth
        return (
            self.most_flops / (gpu.flops * mfu)
            + PRODUCTS * PRODUCT_SECONDS * self.most_on_an_owner
            + self.most_bytes / bandwidth
            + MESSAGE_SECONDS * self.most_messages
        )


@lru_cache(maxsize=16)
def exchange_cost(
    config: EncoderConfig,
    *,
    tensor: int,
    data: int,
    zero_stage: int,
    bytes_per_element: int,
    row_factors: bool,
) -> RoutingCost:
    """Count a step's exchange for a model on a grid; the arguments as in `count`."""
    specs = _specs(config)
    matrices = matrices_of(specs, tensor)
    holdings = flat_holdings(specs, tensor=tensor, data=data, zero_stage=zero_stage)
    routing = route(matrices, holdings)
    return count(routing, bytes_per_element=bytes_per_element, row_factors=row_factors)


def _specs(config: EncoderConfig) -> "Sequence[ParameterSpec]":
    """Return the specs of the model's parameters; the only part that needs torch."""
    import torch

    from mmbert.model.modernbert import MaskedLanguageModel
    from mmbert.parallel.parameter_spec import spec_of
    from mmbert.parallel.process_grid import TensorGroup

    with torch.device("meta"):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    return [spec_of(parameter) for parameter in model.parameters()]


def count(routing: Routing, *, bytes_per_element: int, row_factors: bool) -> RoutingCost:
    """Count the FLOPs, bytes and messages of a step.

    Args:
        bytes_per_element: 2 in bfloat16, 4 in float32.
        row_factors: whether the result comes with a float32 factor for each row (NorMuon).
    """
    ranks = len(routing.pieces)
    there: dict[tuple[int, int], int] = {}
    back: dict[tuple[int, int], int] = {}
    for holder, pieces in enumerate(routing.pieces):
        for piece in pieces:
            pair = holder, routing.owners[piece.matrix]
            if pair[0] == pair[1]:
                continue
            size = bytes_per_element * piece.length
            if routing.enters(piece):
                there[pair] = there.get(pair, 0) + size
            rows = rows_of(piece, routing.matrices[piece.matrix])
            back[pair] = back.get(pair, 0) + size + (4 * len(rows) if row_factors else 0)
    owned = [routing.owned_by(rank) for rank in range(ranks)]
    of_ranks = Counter(rank for pair in (*there, *back) for rank in pair)
    return RoutingCost(
        matrices=len(routing.matrices),
        most_on_an_owner=max(map(len, owned)),
        owners=sum(map(bool, owned)),
        flops=sum(matrix.flops for matrix in routing.matrices),
        most_flops=max(sum(matrix.flops for matrix in of_rank) for of_rank in owned),
        bytes_sent=sum(there.values()),
        bytes_returned=sum(back.values()),
        most_from_a_holder=_most(there, 0),
        most_into_an_owner=_most(there, 1),
        most_from_an_owner=_most(back, 1),
        most_into_a_holder=_most(back, 0),
        pairs=len(there),
        messages=len(there) + len(back),
        most_messages=max(of_ranks.values(), default=0),
        least_held=min(sum(piece.length for piece in pieces) for pieces in routing.pieces),
        most_rows=max(sum(matrix.rows for matrix in of_rank) for of_rank in owned),
    )


def _most(sizes: Mapping[tuple[int, int], int], end: int) -> int:
    """Return the largest sum by the holder (end 0) or the owner (end 1) of the pairs."""
    sums: dict[int, int] = {}
    for pair, size in sizes.items():
        sums[pair[end]] = sums.get(pair[end], 0) + size
    return max(sums.values(), default=0)


def flat_holdings(
    specs: "Sequence[ParameterSpec]", *, tensor: int, data: int, zero_stage: int
) -> list[list[Holding]]:
    """Return what every rank would hold under ZeRO, without its alignment of partitions.

    ZeRO 1 and 2 cut the concatenation of all parameters into equal partitions, ZeRO 3 each
    parameter. Ranks are in the order of the process grid (tensor ranks innermost). For estimates:
    DeepSpeed aligns partitions to a few elements.
    """
    holdings: list[list[Holding]] = [[] for _ in range(tensor * data)]
    for tensor_rank in range(tensor):
        sizes = [math.prod(spec.local_shape(tensor_rank, tensor)) for spec in specs]
        partition, offset = -(-sum(sizes) // data), 0
        for parameter, (spec, size) in enumerate(zip(specs, sizes, strict=True)):
            width = -(-size // data) if zero_stage == 3 else partition
            at = 0 if zero_stage == 3 else offset
            for data_rank in range(at // width, min(data, (at + size - 1) // width + 1)):
                start = max(0, data_rank * width - at)
                stop = min(size, (data_rank + 1) * width - at)
                if start < stop and spec.group == "matrices":
                    holding = Holding(parameter, tensor_rank, start, stop - start)
                    holdings[data_rank * tensor + tensor_rank].append(holding)
            offset += size
    return holdings
