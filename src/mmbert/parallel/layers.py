"""Layers over a tensor group: they look like their ordinary counterparts to the model.

Every layer makes its own parameters, of this rank's shard, uninitialised, each with a description
(see parameter_spec.py). With sequence parallelism input or output tokens are the rank's shard.
Each weight is used inside its own module's forward, as ZeRO 3 gathers it only there.
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
    """How a model is spread over its tensor group."""

    group: TensorGroup
    sequence: bool
    """Whether tokens are spread over the group too, outside attention and MLP."""

    def token_offset(self, tokens: int) -> int:
        """The place in the row of the first token that this rank holds of `tokens`."""
        return self.group.rank * (tokens // self.group.size) if self.sequence else 0


def truncated_normal(std: float) -> InitialDistribution:
    """Normal around 0 with this std, cut at two of it."""
    return InitialDistribution("truncated_normal", std)


class _ParallelLinear(nn.Module):
    """A bias-free linear over the group, by one of the two functions of linear.py."""

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
        """`recompute_input`: how to make x again in the backward pass instead of keeping it."""
        group, sequence = self.parallel.group, self.parallel.sequence
        return self._linear(
            x, self.weight, group, sequence_parallel=sequence, recompute_input=recompute_input
        )


class ColumnParallelLinear(_ParallelLinear):
    """Bias-free linear whose outputs are spread over the group: [T, in] -> [T, out / size].

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
            split_dimension=0,
            fused_sizes=fused_sizes,
            granularity=granularity,
        )
        super().__init__(spec, parallel, column_linear)


class RowParallelLinear(_ParallelLinear):
    """Bias-free linear whose inputs are spread over the group: [T, in / size] -> [T, out].

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
        """`granularity`: inputs that must stay together on a rank."""
        spec = ParameterSpec(
            full_shape=(out_features, in_features),
            initial=truncated_normal(std),
            split_dimension=1,
            granularity=granularity,
        )
        super().__init__(spec, parallel, row_linear)


class ReplicatedLinear(nn.Module):
    """Bias-free linear of which every rank holds all, used on replicated rows."""

    def __init__(
        self, in_features: int, out_features: int, parallel: TensorParallel, *, std: float
    ) -> None:
        super().__init__()
        spec = ParameterSpec(full_shape=(out_features, in_features), initial=truncated_normal(std))
        self.weight = empty_parameter(spec, parallel.group)

    def forward(self, x: Tensor) -> Tensor:
        """[K, in] -> [K, out]."""
        return column_linear(x, self.weight, TensorGroup.single(), sequence_parallel=False)


class LayerNorm(nn.Module):
    """Bias-free layer norm; replicated. `sequence_parallel` if its rows are the rank's shard."""

    def __init__(
        self,
        width: int,
        parallel: TensorParallel,
        *,
        eps: float,
        sequence_parallel: bool,
        recompute: bool = False,
    ) -> None:
        """`recompute`: the linear that takes the output is to make it again, not to keep it."""
        super().__init__()
        self.eps, self.recompute = eps, recompute
        spec = ParameterSpec(
            full_shape=(width,),
            initial=InitialDistribution("ones"),
            sequence_parallel=sequence_parallel and parallel.group.size > 1,
        )
        self.weight = empty_parameter(spec, parallel.group)

    def forward(self, *tensors: Tensor, operation: Callable[..., Any], **options: Any) -> Any:
        """Call `operation` on the tensors, this weight and eps. Called by the methods below: ZeRO 3
        gathers a weight only around its module's forward."""
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
        """How to make the normed output again from hidden + update, if it is not to be kept."""
        if not self.recompute:
            return None
        # A copy of the weight, as ZeRO 3 may have put the parameter away by then.
        return InputRecompute(layer_norm, total, (self.weight.detach().clone(), self.eps))


class IdentityNorm(nn.Module):
    """Stands where another layer has a norm."""

    def add_norm(self, hidden: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return hidden + update twice: in place of its norm, and as the residual stream."""
        total = hidden if update is None else hidden + update
        return total, total

    def recompute_input(self, total: Tensor) -> None:
        """There is nothing to make again: the output is kept as the residual stream."""
        return None


def gather_token_rows(x: Tensor, positions: Tensor, parallel: TensorParallel) -> Tensor:
    """Rows x[positions] of the whole row's tokens, replicated: [K, d].

    positions: int64[K] in [0, T), not falling. x is [T, d], or with sequence parallelism the
    rank's shard [T / size, d]: then each rank gives its own rows and zeros, and only [K, d] is
    communicated.
    """
    if not parallel.sequence or parallel.group.size == 1:
        return gather_rows(x, positions, ascending=True)
    local = positions - parallel.group.rank * x.shape[0]
    mine = (local >= 0) & (local < x.shape[0])
    held = local.clamp(0, x.shape[0] - 1)  # still not falling
    rows = gather_rows(x, held, ascending=True) * mine.unsqueeze(-1)
    return reduce_from_group(rows, parallel.group)


def gather_all_tokens(x: Tensor, parallel: TensorParallel) -> Tensor:
    """All of the row's tokens on every rank, [T, d], for computation that every rank repeats."""
    return gather_tokens_for_replicated(x, parallel.group) if parallel.sequence else x
