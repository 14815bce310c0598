"""Muon and NorMuon on whole matrices, wherever ZeRO and tensor parallelism cut them.

The matrices of linears between hidden states are updated by orthogonalized momentum, the embedding,
norms and biases by StableAdamW. Fused parameters are several matrices (query, key and value; gate
and up). For a matrix W [m, n] with gradient g, average M and rate lr, and lr_max its peak:

    M = momentum · M + (1 − momentum) · g                  no bias correction: the scale drops out
    U = momentum · M + (1 − momentum) · g, or U = M without Nesterov
    O = newton_schulz(U)
    W *= 1 − weight_decay · lr / lr_max
    Muon      W -= lr · s · O      s = 0.2 · sqrt(max(m, n)) (match_rms) or sqrt(max(1, m / n))
    NorMuon   v = beta2 · v + (1 − beta2) · (mean over the columns of O²)        [m]
              N = O / (sqrt(v) + 1e-8), row by row
              W -= lr · 0.2 · N / (root mean square of N)

Keller Jordan 2024 (kellerjordan.github.io/posts/muon); match_rms: Liu et al. 2025 (Moonlight);
NorMuon: Li et al. 2025 (arXiv 2510.05491), whose update has a root mean square of exactly 0.2 · lr.
A gradient of zero from the start changes nothing but the decay: O = 0, and a root mean square below
1e-12 counts as 1e-12.

One rank owns a matrix: its holders send their pieces of U there, in the dtype of the model's
passes, and get their pieces of O back (matrix_exchange.py); v lives there. M, W and all elementwise
arithmetic stay in ZeRO's partitions, in float32. Multiplications and additions are separate calls,
since a fused one may round differently at the end of a cut; so the bits do not depend on the grid.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.errors import RecipeError
from mmbert.parallel.matrix_routing import Holding, Matrix, Piece, matrices_of, route
from mmbert.parallel.parameter_spec import spec_of
from mmbert.parallel.zero_fragment import RowState
from mmbert.recipe import MuonSettings, OptimizerSettings
from mmbert.training.engine.matrix_exchange import MatrixExchange
from mmbert.training.engine.partitions import MOMENTS_OF_ALL, PartitionLayout
from mmbert.training.engine.stable_adamw import StableAdamW
from mmbert_kernels import NEWTON_SCHULZ_STEPS, newton_schulz

MATCHED_RMS = 0.2
"""Root mean square of an update over its rate that Adam's usual rates suit (Liu et al. 2025)."""
ROW_EPS = 1e-8
LEAST_RMS = 1e-12


class Muon(StableAdamW):
    """Muon or NorMuon of the matrices, and StableAdamW of the rest, on one flat partition."""

    state_names = MOMENTS_OF_ALL | {"matrices": ("exp_avg",)}

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        formula: MuonSettings,
        *,
        dtype: torch.dtype,
        matrix_rate_factor: float,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """Args:
        formula: with `beta2`, NorMuon; without, Muon.
        dtype: of Newton-Schulz, and of the matrices sent for it.
        matrix_rate_factor: rate of the matrices over that of StableAdamW.
        """
        super().__init__(
            parameters,
            learning_rate=learning_rate,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
        )
        self._formula, self._dtype = formula, dtype
        self._rate_factor = matrix_rate_factor
        self._exchange: MatrixExchange | None = None
        self._pieces: list[tuple[slice, Matrix, Piece]] = []
        """What this rank holds of the matrices, with its places in the partition."""
        self._square_at: dict[int, int] = {}
        self._row_states: list[RowState] = []

    @classmethod
    def build(
        cls, model: nn.Module, settings: OptimizerSettings, device: torch.device, dtype: torch.dtype
    ) -> "Muon":
        """Create the optimizer over the model's parameters.

        Raises:
            RecipeError: the model has no matrices.
        """
        if not any(spec_of(parameter).group == "matrices" for parameter in model.parameters()):
            raise RecipeError(
                f"optimizer.name={settings.name} updates matrices, but the group 'matrices' of the "
                "model's parameters is empty",
                remedy="set optimizer.name to stable_adamw",
            )
        assert settings.muon is not None
        return cls(
            model.parameters(),
            settings.muon,
            dtype=dtype,
            matrix_rate_factor=settings.rate_factors["matrices"],
            learning_rate=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def attach(self, partitions: Sequence[Tensor], layouts: Sequence[PartitionLayout]) -> None:
        """Route the matrices, and create zero states of partition and owned matrices; collective.

        Raises:
            RuntimeError, ValueError: the spans of all ranks do not cover every tensor exactly once.
        """
        (flat,), (layout,) = partitions, layouts
        rest = layout.of_groups(("embedding", "rest"))
        self.exp_avg_sq_spans = rest.spans.compact()
        self._square_at = dict(zip(rest.spans.starts, self.exp_avg_sq_spans.starts, strict=True))
        super().attach([flat], [rest])
        self._route(layout, flat.device)
        if self._formula.beta2 is not None:
            self._row_states = [
                RowState(
                    layout.specs[matrix.parameter],
                    "row_exp_avg_sq",
                    matrix.first_row,
                    torch.zeros(matrix.rows, device=flat.device),
                )
                for matrix in self.exchange.owned
            ]

    def _route(self, layout: PartitionLayout, device: torch.device) -> None:
        """Gather what every rank holds of the matrices; find the owners and this rank's pieces."""
        held: dict[int, tuple[Holding, int]] = {}
        lengths = (b - a for a, b in zip(layout.spans.starts, layout.spans.ends, strict=True))
        places = zip(layout.numbers, layout.shard_starts, lengths, strict=True)
        for (number, start, length), at in zip(places, layout.spans.starts, strict=True):
            if layout.specs[number].group == "matrices":
                held[number] = Holding(number, layout.tensor_rank, start, length), at
        holdings: list[list[Holding]] = [[holding for holding, _ in held.values()]]
        if dist.get_world_size() > 1:
            gathered: list[list[tuple[int, ...]]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(gathered, [tuple(holding) for holding in holdings[0]])
            holdings = [[Holding(*numbers) for numbers in of_rank] for of_rank in gathered]
        routing = route(matrices_of(layout.specs, layout.tensor_size), holdings)
        self._exchange = MatrixExchange(
            routing,
            dist.get_rank(),
            row_factors=self._formula.beta2 is not None,
            dtype=self._dtype,
            device=device,
        )
        for piece in self.exchange.pieces:
            holding, at = held[routing.matrices[piece.matrix].parameter]
            first = at + piece.held_at - holding.start
            place = slice(first, first + piece.length)
            self._pieces.append((place, routing.matrices[piece.matrix], piece))

    @property
    def exchange(self) -> MatrixExchange:
        """The exchange with the other ranks, after `attach`."""
        if self._exchange is None:
            raise RuntimeError("Muon has no layout yet")
        return self._exchange

    def states_of(self, partition: Tensor, span: slice) -> dict[str, Tensor]:
        """Return the states by name of a parameter's span in a partition, as views."""
        states = self.state[partition]
        found = {"exp_avg": states["exp_avg"][span]}
        if span.start in self._square_at:
            first = self._square_at[span.start]
            found["exp_avg_sq"] = states["exp_avg_sq"][first : first + span.stop - span.start]
        return found

    def row_states(self) -> Iterable[RowState]:
        """Return NorMuon's mean squares of the rows of the matrices that this rank owns."""
        return self._row_states

    def update(self) -> None:
        """Take a step of the matrices, and of the rest while their momenta are under way."""
        flat, gradient, _ = self.partition()
        self.exchange.send(self._momenta(flat, gradient))
        super().update()  # of the rest
        steps = NEWTON_SCHULZ_STEPS[self._formula.coefficients]
        matrices = [newton_schulz(matrix, steps) for matrix in self.exchange.receive()]
        self.exchange.send_back(matrices, self._row_factors(matrices))
        self._apply(flat)

    def _momenta(self, flat: Tensor, gradient: Tensor) -> Iterable[Tensor]:
        """Update M of this rank's pieces, and yield U of each, in float32."""
        exp_avg, beta = self.state[flat]["exp_avg"], self._formula.momentum
        for place, _, _ in self._pieces:
            own = exp_avg[place]
            added = gradient[place] * (1 - beta)
            own.mul_(beta).add_(added)
            yield (own * beta).add_(added) if self._formula.nesterov else own

    def _row_factors(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Update v of NorMuon's owned matrices; return the factors of their rows, float32 [m]."""
        beta2, factors = self._formula.beta2, list[Tensor]()
        if beta2 is None:
            return factors
        for state, result in zip(self._row_states, results, strict=True):
            mean = result.float().square().mean(dim=1)
            state.values.lerp_(mean, 1 - beta2)
            spread = state.values.double().sqrt() + ROW_EPS
            rms = (mean / spread.square()).mean().sqrt().clamp(min=LEAST_RMS)
            factors.append((MATCHED_RMS / rms / spread).float())
        return factors

    def _apply(self, flat: Tensor) -> None:
        """Decay this rank's pieces of the weights and subtract their updates."""
        group = self.param_groups[0]
        rate = group["lr"] * self._rate_factor
        kept = 1 - group["weight_decay"] * group["lr"] / group["lr_max"]
        returned = zip(self._pieces, self.exchange.receive_back(), strict=True)
        for (place, matrix, piece), (values, factors) in returned:
            update = values.float()
            if self._formula.beta2 is None:
                update.mul_(rate * self._scale(matrix))
            else:
                columns = matrix.blocks[piece.tensor_rank].columns
                _scale_rows(update, factors, piece.start % columns, columns)
                update.mul_(rate)
            flat.detach()[place].mul_(kept).sub_(update)

    def _scale(self, matrix: Matrix) -> float:
        """Return Muon's factor for a matrix's shape."""
        if self._formula.scale == "match_rms":
            return MATCHED_RMS * math.sqrt(max(matrix.rows, matrix.columns))
        return math.sqrt(max(1.0, matrix.rows / matrix.columns))


def _scale_rows(values: Tensor, factors: Tensor, skipped: int, columns: int) -> None:
    """Multiply the elements of each row by its factor, in place.

    Args:
        values: [length], without the first `skipped` elements of their first row.
        factors: [rows].
    """
    head = min(columns - skipped, len(values)) if skipped else 0
    rows = (len(values) - head) // columns
    body = head + rows * columns
    if head:
        values[:head].mul_(factors[0])
    whole = factors[int(head > 0) : int(head > 0) + rows]
    values[head:body].view(rows, columns).mul_(whole[:, None])
    if body < len(values):
        values[body:].mul_(factors[-1])
