"""Layers over a tensor group: they look like their ordinary counterparts to the model.

Every layer makes its own parameters, of this rank's shard, uninitialised, each with a description
(see parameter_spec.py). With sequence parallelism input or output tokens are the rank's shard.
Each weight is used inside its own module's forward, as ZeRO 3 gathers it only there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmbert.parallel.collectives import (
    copy_to_group,
    gather_last_dimension,
    gather_tokens_for_replicated,
    reduce_from_group,
    reduce_scatter_tokens,
)
from mmbert.parallel.gradient_hooks import main_grad
from mmbert.parallel.linear import InputRecompute, column_linear, row_linear
from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    empty_parameter,
    spec_of,
)
from mmbert.parallel.process_grid import TensorGroup
from mmbert_kernels import (
    Dropout,
    add_layer_norm,
    embedding_layer_norm,
    gather_rows,
    layer_norm,
    linear_cross_entropy,
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

    def forward(
        self,
        hidden: Tensor,
        update: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Tensor, Tensor]:
        """hidden, update: [T, width] -> (norm(hidden + update), hidden + update); None adds 0.
        `dropout`: of the update, before it is added.

        With `rows` int64[T], hidden is a table: (norm(hidden[rows]), hidden).
        """
        if rows is not None:
            return embedding_layer_norm(rows, hidden, self.weight, self.eps), hidden
        if update is None:
            return prenorm_layer_norm(hidden, self.weight, self.eps)
        return add_layer_norm(update, hidden, self.weight, self.eps, dropout)

    def recompute_input(self, total: Tensor) -> InputRecompute | None:
        """How to make the normed output again from hidden + update, if it is not to be kept."""
        if not self.recompute:
            return None
        # A copy of the weight, as ZeRO 3 may have put the parameter away by then.
        return InputRecompute(layer_norm, total, (self.weight.detach().clone(), self.eps))


class IdentityNorm(nn.Module):
    """Stands where another layer has a norm."""

    def forward(self, hidden: Tensor, update: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(hidden + update, hidden + update); None adds 0."""
        total = hidden if update is None else hidden + update
        return total, total

    def recompute_input(self, total: Tensor) -> None:
        """There is nothing to make again: the output is kept as the residual stream."""
        return None


class VocabParallelEmbedding(nn.Module):
    """The embedding table by row ranges over the group, not necessarily equal ones."""

    def __init__(
        self, vocab_size: int, hidden_size: int, parallel: TensorParallel, *, std: float
    ) -> None:
        super().__init__()
        self.parallel = parallel
        spec = ParameterSpec(
            full_shape=(vocab_size, hidden_size),
            initial=truncated_normal(std),
            split_dimension=0,
            granularity=vocabulary_granularity(vocab_size),
            require_even=False,
        )
        self.weight = empty_parameter(spec, parallel.group)
        self.start, self.stop = spec.ranges(parallel.group.rank, parallel.group.size)[0]

    def forward(self, input_ids: Tensor, norm: LayerNorm) -> Tensor:
        """input_ids int64[T] -> norm(table[ids])[T, hidden], or the rank's [T / size, hidden]."""
        group = self.parallel.group
        if group.size == 1:
            normed, _ = norm(self.weight, rows=input_ids)
            return normed
        mine = (input_ids >= self.start) & (input_ids < self.stop)
        rows = nn.functional.embedding((input_ids - self.start) * mine, self.weight)
        # One rank adds the row, the others exact zeros: the sum is the row, bit for bit.
        rows = rows * mine.unsqueeze(-1)
        reduce = reduce_scatter_tokens if self.parallel.sequence else reduce_from_group
        normed, _ = norm(reduce(rows, group))
        return normed


class VocabParallelDecoder(nn.Module):
    """The tied decoder with its bias, by the same row ranges as the embedding."""

    def __init__(self, embedding: VocabParallelEmbedding) -> None:
        super().__init__()
        self.group, self.vocab_start = embedding.parallel.group, embedding.start
        self.weight = embedding.weight
        table = spec_of(embedding.weight)
        vocab_size, hidden_size = table.full_shape
        self.bias = empty_parameter(
            ParameterSpec(
                full_shape=(vocab_size,),
                # What torch's own linear draws: the original initialisation leaves it so.
                initial=InitialDistribution("uniform", 1 / math.sqrt(hidden_size)),
                split_dimension=0,
                granularity=table.granularity,
                require_even=False,
            ),
            self.group,
        )

    def forward(
        self, hidden: Tensor, labels: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """hidden[K, d], replicated: float32 losses [K] of `labels` int64[K] times `weights`
        float32[K], without ever holding the logits (their upstream gradient must be one number).
        Without labels: the full float32 logits [K, vocabulary], which have no gradient.
        """
        hidden = copy_to_group(hidden, self.group)
        if labels is not None:
            return linear_cross_entropy(
                hidden,
                self.weight,
                self.bias,
                labels,
                weights=weights,
                vocab_start=self.vocab_start,
                group=self.group.group if self.group.size > 1 else None,
                main_grad=main_grad(self.weight),
            )
        table = spec_of(self.weight)
        widths = [table.local_shape(rank, self.group.size)[0] for rank in range(self.group.size)]
        with torch.no_grad():
            logits = nn.functional.linear(hidden, self.weight, self.bias).float()
            return gather_last_dimension(logits, self.group, widths)


def vocabulary_granularity(vocab_size: int) -> int:
    """Rows by which the vocabulary is cut: 64 where that leaves every rank many, else single ones.

    Matrix products over ranges that are not multiples of 8 wide are several times slower on GPUs.
    """
    return 64 if vocab_size >= 16_384 else 1


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
