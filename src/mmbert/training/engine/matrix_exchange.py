"""Exchange of matrices between the ranks that hold pieces of them and the rank that owns them.

Two messages a step, each one `all_to_all_single` over all ranks that runs while the device computes
something else: the pieces of the momentum to the owners, and the pieces of the results back, after
the factors of their rows (routing: parallel/matrix_routing.py). Moving changes no bit: an owner has
the same matrix on every grid.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert.parallel.matrix_routing import Block, Matrix, Piece, Routing, rows_of


class MatrixExchange:
    """Moves the pieces of matrices to their owners and back; every rank calls the same methods."""

    def __init__(
        self,
        routing: Routing,
        rank: int,
        *,
        row_factors: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Args:
        row_factors: whether results have a factor for each row.
        dtype: of the elements in both messages.
        """
        ranks = range(len(routing.pieces))
        self._matrices, self._dtype, self._device = routing.matrices, dtype, device
        self.pieces = routing.pieces[rank]
        """What this rank holds, in the order of the pieces that it sends and gets back."""
        self.owned = routing.owned_by(rank)
        """Matrices that this rank owns."""
        self._entering = [routing.enters(piece) for piece in self.pieces]
        self._sent = [routing.sent(rank, owner) for owner in ranks]
        self._received = [routing.sent(holder, rank) for holder in ranks]
        self._to_return = [routing.returned(rank, holder) for holder in ranks]
        self._returned = [routing.returned(owner, rank) for owner in ranks]
        # Elements of the messages' dtype per factor of a row.
        self._words = torch.float32.itemsize // dtype.itemsize if row_factors else 0
        self._message: _Message | None = None

    def send(self, pieces: Iterable[Tensor]) -> None:
        """Begin to send the pieces that this rank holds, each a vector of any dtype, to the owners.

        Pieces of copies are left out: the owner gets one.
        """
        entering = zip(pieces, self._entering, strict=True)
        self._message = _Message(
            self._cat([piece.to(self._dtype) for piece, enters in entering if enters]),
            [_elements(pieces) for pieces in self._sent],
            [_elements(pieces) for pieces in self._received],
        )

    def receive(self) -> list[Tensor]:
        """Wait for the pieces of the matrices that this rank owns.

        Returns:
            The matrices [rows, columns] in their order, each a new contiguous tensor.
        """
        buffer, offset = self._arrived(), 0
        found: dict[int, dict[int, list[tuple[int, Tensor]]]] = {}
        for piece in (piece for pieces in self._received for piece in pieces):
            values = buffer[offset : offset + piece.length]
            blocks = found.setdefault(piece.matrix, {})
            blocks.setdefault(piece.tensor_rank, []).append((piece.start, values))
            offset += piece.length
        return [self._assemble(matrix, found[matrix.number]) for matrix in self.owned]

    def send_back(self, results: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
        """Begin to send the owned matrices' results to the holders of their pieces.

        Args:
            results: [rows, columns] of every owned matrix.
            factors: float32 [rows] of every owned matrix; none without `row_factors`.
        """
        numbers = [matrix.number for matrix in self.owned]
        of_matrix = dict(zip(numbers, results, strict=True))
        of_rows = dict(zip(numbers, factors, strict=True)) if self._words else {}
        flat: dict[tuple[int, int], Tensor] = {}
        parts: list[Tensor] = []
        for pieces in self._to_return:
            for piece in pieces if self._words else ():
                rows = rows_of(piece, self._matrices[piece.matrix])
                parts.append(of_rows[piece.matrix][rows.start : rows.stop].view(self._dtype))
            for piece in pieces:
                key = piece.matrix, piece.tensor_rank
                if key not in flat:
                    block = self._matrices[piece.matrix].blocks[piece.tensor_rank]
                    flat[key] = _part(of_matrix[piece.matrix], block).reshape(-1)
                parts.append(flat[key][piece.start : piece.start + piece.length])
        self._message = _Message(
            self._cat(parts),
            [sum(self._sizes(pieces)) for pieces in self._to_return],
            [sum(self._sizes(pieces)) for pieces in self._returned],
        )

    def receive_back(self) -> list[tuple[Tensor, Tensor]]:
        """Wait for the results of the pieces that this rank holds.

        Returns:
            Of every piece its elements [length], and the float32 factors of its rows ([0] without
            `row_factors`).
        """
        buffer, offset = self._arrived(), 0
        found: list[tuple[Tensor, Tensor]] = []
        for pieces in self._returned:
            words, elements = self._sizes(pieces)
            # A copy, since the words may begin in the middle of a float32.
            of_rows = buffer[offset : offset + words].clone().view(torch.float32)
            at, row = offset + words, 0
            for piece in pieces:
                rows = len(rows_of(piece, self._matrices[piece.matrix]))
                found.append((buffer[at : at + piece.length], of_rows[row : row + rows]))
                at, row = at + piece.length, row + rows
            offset += words + elements
        return found

    def _arrived(self) -> Tensor:
        assert self._message is not None, "nothing was sent"
        buffer = self._message.wait()
        self._message = None
        return buffer

    def _sizes(self, pieces: Sequence[Piece]) -> tuple[int, int]:
        """Return the elements of the factors and of the pieces themselves in a message back."""
        rows = sum(len(rows_of(piece, self._matrices[piece.matrix])) for piece in pieces)
        return self._words * rows, _elements(pieces)

    def _assemble(self, matrix: Matrix, blocks: dict[int, list[tuple[int, Tensor]]]) -> Tensor:
        """Return the matrix from the pieces (start, values) of its blocks by tensor rank."""
        whole = torch.empty((matrix.rows, matrix.columns), dtype=self._dtype, device=self._device)
        for rank, pieces in blocks.items():
            block = matrix.blocks[rank]
            ordered = [values for _, values in sorted(pieces, key=lambda piece: piece[0])]
            values = torch.cat(ordered).view(block.rows, block.columns)
            _part(whole, block).copy_(values)
        return whole

    def _cat(self, parts: list[Tensor]) -> Tensor:
        if parts:
            return torch.cat(parts)
        return torch.empty(0, dtype=self._dtype, device=self._device)


class _Message:
    """A message under way; its buffers live until it has arrived."""

    def __init__(self, sent: Tensor, sizes: list[int], expected: list[int]) -> None:
        """Send `sizes[r]` elements to each rank r, which sends `expected[r]`."""
        self._sent, self._work = sent, None
        self._buffer = sent
        if len(sizes) > 1:
            self._buffer = sent.new_empty(sum(expected))
            self._work = dist.all_to_all_single(self._buffer, sent, expected, sizes, async_op=True)

    def wait(self) -> Tensor:
        """Return what the other ranks sent, in their order; on a GPU only the device waits."""
        if self._work is not None:
            self._work.wait()
        return self._buffer


def _elements(pieces: Sequence[Piece]) -> int:
    return sum(piece.length for piece in pieces)


def _part(matrix: Tensor, block: Block) -> Tensor:
    """Return a block of a matrix, as a view."""
    return matrix[block.row : block.row + block.rows, block.column : block.column + block.columns]
