"""Routing of matrices to owners: which rank orthogonalizes a matrix, who sends and receives what.

Muon updates whole matrices, which ZeRO and tensor parallelism cut anywhere. Every matrix has one
owner among all ranks. In a step each holder of elements sends its pieces of the momentum to the
owners, and the owners send the pieces of the result back:

    piece of a matrix                a range of one holder's flattened shard
    block of a matrix                what one tensor rank has of it, over all its data ranks

Replicated matrices are sent by the holders of tensor rank 0 alone; every holder gets the result.
Pure functions of descriptions, without torch and messages: the engine exchanges by them, and the
planner counts by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmbert.parallel.parameter_spec import ParameterSpec


class Holding(NamedTuple):
    """Elements [start, start + length) of a flattened shard of a parameter, held by one rank."""

    parameter: int
    """Index of the parameter in the model."""
    tensor_rank: int
    start: int
    length: int


@dataclass(frozen=True)
class Block:
    """What a tensor rank has of a matrix: [rows, columns] at (row, column), contiguous in the
    flattened shard from element `start`."""

    start: int
    row: int
    column: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Matrix:
    """A parameter, or a part of a fused one, that is orthogonalized as a whole."""

    number: int
    """Index among all matrices, in the order of the model."""
    parameter: int
    first_row: int
    """First row in the parameter's full tensor."""
    rows: int
    columns: int
    blocks: tuple[Block, ...]
    """By tensor rank; copies if the parameter is replicated."""
    replicated: bool

    @property
    def flops(self) -> int:
        """FLOPs of its Newton-Schulz steps."""
        return newton_schulz_flops(self.rows, self.columns)


class Piece(NamedTuple):
    """Elements [start, start + length) of a matrix's block, held by one rank."""

    matrix: int
    tensor_rank: int
    start: int
    length: int
    held_at: int
    """Element of the holder's flattened shard at which the piece starts."""


@dataclass(frozen=True)
class Routing:
    """Owners of all matrices, and the pieces that every rank holds."""

    matrices: tuple[Matrix, ...]
    owners: tuple[int, ...]
    """Rank by matrix."""
    pieces: tuple[tuple[Piece, ...], ...]
    """By rank, each rank's in the order of owners, then of matrices."""

    def owned_by(self, rank: int) -> list[Matrix]:
        """Return the matrices of an owner, in order."""
        return [self.matrices[n] for n, owner in enumerate(self.owners) if owner == rank]

    def sent(self, holder: int, owner: int) -> list[Piece]:
        """Return the pieces of the momentum that a holder sends to an owner."""
        return [p for p in self.returned(owner, holder) if self.enters(p)]

    def returned(self, owner: int, holder: int) -> list[Piece]:
        """Return the pieces of the result that an owner sends to a holder."""
        return [p for p in self.pieces[holder] if self.owners[p.matrix] == owner]

    def enters(self, piece: Piece) -> bool:
        """Whether the owner takes its matrix's elements from this piece (not from a copy of it)."""
        return piece.tensor_rank == 0 or not self.matrices[piece.matrix].replicated


def newton_schulz_flops(rows: int, columns: int, steps: int = 5) -> int:
    """Return the FLOPs of orthogonalizing a matrix: three products per step."""
    short, long = sorted((rows, columns))
    return steps * (4 * short * short * long + 2 * short**3)


def matrices_of(specs: "Sequence[ParameterSpec]", tensor_size: int) -> tuple[Matrix, ...]:
    """Return the matrices of a model: the parts of the parameters of the group `matrices`.

    Raises:
        ValueError: a matrix is not contiguous in a flattened shard (fused along its columns).
    """
    found: list[Matrix] = []
    for parameter, spec in enumerate(specs):
        if spec.group != "matrices":
            continue
        if spec.split_dimension == 1 and spec.fused_sizes:
            raise ValueError(f"{spec.name}: parts fused along the columns are not one matrix each")
        blocks = [_blocks(spec, rank, tensor_size) for rank in range(tensor_size)]
        for part, (first, stop) in enumerate(spec.matrix_rows):
            found.append(
                Matrix(
                    number=len(found),
                    parameter=parameter,
                    first_row=first,
                    rows=stop - first,
                    columns=spec.full_shape[1],
                    blocks=tuple(of_rank[part] for of_rank in blocks),
                    replicated=not spec.is_split,
                )
            )
    return tuple(found)


def _blocks(spec: "ParameterSpec", rank: int, size: int) -> list[Block]:
    """Return a tensor rank's block of each matrix of the parameter."""
    rows, columns = spec.full_shape
    ranges = spec.ranges(rank, size)
    if spec.split_dimension == 1:
        ((start, stop),) = ranges
        return [Block(0, 0, start, rows, stop - start)]
    ends = accumulate((stop - start for start, stop in ranges), initial=0)
    parts = zip(ranges, spec.matrix_rows, ends, strict=False)  # one more end than ranges
    return [
        Block(at * columns, start - first, 0, stop - start, columns)
        for (start, stop), (first, _), at in parts
    ]


def deal(matrices: Sequence[Matrix], ranks: int) -> tuple[int, ...]:
    """Return the owner of every matrix: the largest first, each to the rank with the least to do.

    Ties go to the lower matrix and the lower rank, so that every process deals alike.
    """
    loads = [0] * ranks
    owners = [0] * len(matrices)
    for matrix in sorted(matrices, key=lambda one: (-one.flops, one.number)):
        rank = min(range(ranks), key=lambda rank: (loads[rank], rank))
        owners[matrix.number] = rank
        loads[rank] += matrix.flops
    return tuple(owners)


def route(matrices: Sequence[Matrix], holdings: Sequence[Sequence[Holding]]) -> Routing:
    """Return the routing of matrices whose elements the ranks hold as described.

    Args:
        holdings: of every rank, of parameters that are matrices; others are ignored.

    Raises:
        ValueError: the ranks do not hold every element of every block exactly once.
    """
    owners = deal(matrices, len(holdings))
    by_parameter: dict[int, list[Matrix]] = {}
    for matrix in matrices:
        by_parameter.setdefault(matrix.parameter, []).append(matrix)
    pieces = [
        tuple(
            sorted(
                (
                    piece
                    for holding in of_rank
                    for matrix in by_parameter.get(holding.parameter, ())
                    if (piece := _overlap(matrix, holding)) is not None
                ),
                key=lambda piece: (owners[piece.matrix], piece.matrix),
            )
        )
        for of_rank in holdings
    ]
    _require_all(matrices, pieces)
    return Routing(tuple(matrices), owners, tuple(pieces))


def _overlap(matrix: Matrix, holding: Holding) -> Piece | None:
    block = matrix.blocks[holding.tensor_rank]
    start = max(holding.start, block.start)
    stop = min(holding.start + holding.length, block.start + block.size)
    if start >= stop:
        return None
    return Piece(matrix.number, holding.tensor_rank, start - block.start, stop - start, start)


def _require_all(matrices: Sequence[Matrix], pieces: Sequence[Sequence[Piece]]) -> None:
    """Raise unless the pieces cover every block once: what none holds would be garbage."""
    held: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for piece in (piece for of_rank in pieces for piece in of_rank):
        place = piece.start, piece.start + piece.length
        held.setdefault((piece.matrix, piece.tensor_rank), []).append(place)
    for matrix in matrices:
        for rank, block in enumerate(matrix.blocks):
            end = 0
            for start, stop in sorted(held.get((matrix.number, rank), [])):
                if start != end:
                    raise ValueError(_uncovered(matrix, rank, min(start, end)))
                end = stop
            if end != block.size:
                raise ValueError(_uncovered(matrix, rank, end))


def _uncovered(matrix: Matrix, rank: int, element: int) -> str:
    return (
        f"the ranks do not hold matrix {matrix.number} of parameter {matrix.parameter} once: "
        f"element {element} of its block on tensor rank {rank} is held by none or by several"
    )


def rows_of(piece: Piece, matrix: Matrix) -> range:
    """Return the rows of the matrix of which a piece has elements."""
    block = matrix.blocks[piece.tensor_rank]
    first = piece.start // block.columns
    last = (piece.start + piece.length - 1) // block.columns
    return range(block.row + first, block.row + last + 1)
