"""Tensor-parallel layers with the interfaces of their ordinary counterparts.

Each layer creates its own parameters: this rank's shards, uninitialized, each with a ParameterSpec
(parameter_spec.py). With sequence parallelism input or output tokens are the rank's shard. Each
weight is used only inside its own module's forward, where ZeRO 3 gathers it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmbert.parallel.collectives import (
    gather_tokens_for_replicated,
    reduce_from_group,
)
from mmbert.parallel.linear import InputRecompute, column_linear, row_linear
from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    empty_parameter,
)
from mmbert.parallel.process_grid import TensorGroup
from mmbert_kernels import (
    Dropout,
    add_layer_norm,
    embedding_layer_norm,
    gather_rows,
    layer_norm,
    prenorm_layer_norm,
)


@dataclass(frozen=True)
class TensorParallel:
    """Parallelism of a model over its tensor group."""

    group: TensorGroup
    sequence: bool
    """Whether tokens are sharded over the group outside attention and MLP."""

    def token_offset(self, tokens: int) -> int:
        """Return the position of this rank's first token in a row of `tokens` tokens."""
        return self.group.rank * (tokens // self.group.size) if self.sequence else 0


def truncated_normal(std: float) -> InitialDistribution:
    """Return a normal distribution of mean 0, truncated at two standard deviations."""
    return InitialDistribution("truncated_normal", std)


class _ParallelLinear(nn.Module):
    """Bias-free linear over the group, by `column_linear` or `row_linear`."""

    def __init__(
        self,
        spec: ParameterSpec,
        parallel: TensorParallel,
        linear: Callable[..., Tensor],
    ) -> None:
        super().__init__()
        self.parallel, self._linear = parallel, linear
        self.weight = empty_parameter(spec, parallel.group)

    def forward(self, x: Tensor, *, recompute_input: InputRecompute | None = None) -> Tensor:
        """Apply the linear; `recompute_input` recomputes x in backward instead of saving it."""
        group, sequence = self.parallel.group, self.parallel.sequence
        x = x.to(self.weight.dtype)  # other than the input's under autocast alone
        return self._linear(
            x, self.weight, group, sequence_parallel=sequence, recompute_input=recompute_input
        )


class ColumnParallelLinear(_ParallelLinear):
    """Bias-free linear with outputs sharded over the group: [T, in] -> [T, out / size].

    With sequence parallelism the input is the rank's shard of the tokens, [T / size, in].
    """

    def __init__(
        self,
        in_features: int,
        fused_sizes: tuple[int, ...],
        parallel: TensorParallel,
        *,
        granularity: int = 1,
        std: float,
    ) -> None:
        """`fused_sizes`: widths of the fused outputs, each split in multiples of `granularity`."""
        spec = ParameterSpec(
            full_shape=(sum(fused_sizes), in_features),
            initial=truncated_normal(std),
            group="matrices",
            split_dimension=0,
            fused_sizes=fused_sizes,
            granularity=granularity,
        )
        super().__init__(spec, parallel, column_linear)


class RowParallelLinear(_ParallelLinear):
    """Bias-free linear with inputs sharded over the group: [T, in / size] -> [T, out].

    With sequence parallelism the output is the rank's shard of the tokens, [T / size, out].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        parallel: TensorParallel,
        *,
        granularity: int = 1,
        std: float,
    ) -> None:
        """`granularity`: number of adjacent inputs that must stay on one rank."""
        spec = ParameterSpec(
            full_shape=(out_features, in_features),
            initial=truncated_normal(std),
            group="matrices",
            split_dimension=1,
            granularity=granularity,
        )
        super().__init__(spec, parallel, row_linear)


class ReplicatedLinear(nn.Module):
    """Bias-free linear replicated on every rank, for replicated rows."""

    def __init__(
        self, in_features: int, out_features: int, parallel: TensorParallel, *, std: float
    ) -> None:
        super().__init__()
        spec = ParameterSpec(
            full_shape=(out_features, in_features),
            initial=truncated_normal(std),
            group="matrices",
        )
        self.weight = empty_parameter(spec, parallel.group)

    def forward(self, x: Tensor) -> Tensor:
        """[K, in] -> [K, out]."""
        x = x.to(self.weight.dtype)  # as in the parallel linears
        return column_linear(x, self.weight, TensorGroup.single(), sequence_parallel=False)


class LayerNorm(nn.Module):
    """Bias-free, replicated layer norm with three operations: `norm`, `add_norm`, `embed_norm`."""

    def __init__(
        self,
        width: int,
        parallel: TensorParallel,
        *,
        eps: float,
        sequence_parallel: bool,
        recompute: bool = False,
    ) -> None:
        """Create the weight.

        Args:
            width: hidden size.
            parallel: the tensor group.
            eps: added to the variance.
            sequence_parallel: whether the rows are the rank's shard of the tokens.
            recompute: whether the next linear recomputes the output instead of saving it.
        """
        super().__init__()
        self.eps, self.recompute = eps, recompute
        spec = ParameterSpec(
            full_shape=(width,),
            initial=InitialDistribution("ones"),
            sequence_parallel=sequence_parallel and parallel.group.size > 1,
        )
        self.weight = empty_parameter(spec, parallel.group)

    def forward(self, *tensors: Tensor, operation: Callable[..., Any], **options: Any) -> Any:
        """Call `operation` on the tensors, this weight and eps.

        Called by the methods below, because ZeRO 3 gathers a weight only for its module's forward.
        """
        return operation(*tensors, self.weight, self.eps, **options)

    def norm(self, x: Tensor) -> Tensor:
        """Normalize x [T, width]."""
        normed: Tensor = self(x, operation=layer_norm)
        return normed

    def add_norm(
        self, hidden: Tensor, update: Tensor | None, *, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (norm(hidden + update), hidden + update), [T, width] each.

        Args:
            hidden: the residual stream [T, width].
            update: a branch's output [T, width]; None adds nothing.
            dropout: applied to the update before the addition.
        """
        if update is None:
            normed, residual_out = self(hidden, operation=prenorm_layer_norm)
        else:
            normed, residual_out = self(update, hidden, operation=add_layer_norm, dropout=dropout)
        return normed, residual_out

    def embed_norm(self, ids: Tensor, table: Tensor) -> Tensor:
        """Normalize the rows table[ids], [T, width], without storing them."""
        normed: Tensor = self(ids, table, operation=embedding_layer_norm)
        return normed

    def recompute_input(self, total: Tensor) -> InputRecompute | None:
        """Return a recomputation of the normed output from hidden + update, or None to save it."""
        if not self.recompute:
            return None
        # A copy of the weight, because ZeRO 3 may have released the parameter by then.
        return InputRecompute(layer_norm, total, (self.weight.detach().clone(), self.eps))


class IdentityNorm(nn.Module):
    """Identity instead of a norm; only adds the update."""

    def add_norm(self, hidden: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return hidden + update twice: as the branch's input and as the residual stream."""
        total = hidden if update is None else hidden + update
        return total, total

    def recompute_input(self, total: Tensor) -> None:
        """Return None: the output is the residual stream, which is saved anyway."""
        return None


def gather_token_rows(x: Tensor, positions: Tensor, parallel: TensorParallel) -> Tensor:
    """Gather x[positions] from the tokens of all ranks, replicated: [K, d].

    positions: int64 [K] in [0, T), sorted. x: [T, d], or with sequence parallelism the rank's shard
    [T / size, d]; each rank then contributes its own rows and zeros, and only [K, d] is
    communicated.
    """
    if not parallel.sequence or parallel.group.size == 1:
        return gather_rows(x, positions, ascending=True)
    local = positions - parallel.group.rank * x.shape[0]
    mine = (local >= 0) & (local < x.shape[0])
    held = local.clamp(0, x.shape[0] - 1)  # still sorted
    rows = gather_rows(x, held, ascending=True) * mine.unsqueeze(-1)
    return reduce_from_group(rows, parallel.group)


def gather_all_tokens(x: Tensor, parallel: TensorParallel) -> Tensor:
    """Gather all tokens of the row on every rank, [T, d], for replicated computation."""
    return gather_tokens_for_replicated(x, parallel.group) if parallel.sequence else x
