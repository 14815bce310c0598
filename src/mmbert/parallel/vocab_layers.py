"""Vocabulary-parallel embedding and tied decoder, sharded by ranges of rows of the vocabulary."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmbert.parallel.collectives import (
    copy_to_group,
    gather_last_dimension,
    reduce_from_group,
    reduce_scatter_tokens,
)
from mmbert.parallel.gradient_hooks import main_grad
from mmbert.parallel.layers import TensorParallel, truncated_normal
from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    empty_parameter,
    spec_of,
)
from mmbert_kernels import linear_cross_entropy


class VocabParallelEmbedding(nn.Module):
    """Embedding table, sharded over the group by ranges of rows that may differ in length."""

    def __init__(
        self, vocab_size: int, hidden_size: int, parallel: TensorParallel, *, std: float
    ) -> None:
        super().__init__()
        self.parallel = parallel
        spec = ParameterSpec(
            full_shape=(vocab_size, hidden_size),
            initial=truncated_normal(std),
            group="embedding",
            split_dimension=0,
            granularity=vocabulary_granularity(vocab_size),
            require_even=False,
        )
        self.weight = empty_parameter(spec, parallel.group)
        self.start, self.stop = spec.ranges(parallel.group.rank, parallel.group.size)[0]

    @property
    def is_sharded(self) -> bool:
        """Whether the table is split over several ranks."""
        return self.parallel.group.size > 1

    def forward(
        self, input_ids: Tensor, *, lookup: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Tensor:
        """Look up input_ids int64[T]: [T, hidden], or the rank's [T / size, hidden].

        `lookup(ids, table)` replaces the plain look-up, to fuse it with the operation after it;
        unsharded tables only.
        """
        if not self.is_sharded:
            return (lookup or nn.functional.embedding)(input_ids, self.weight)
        assert lookup is None, "a sharded table has its own look-up"
        group = self.parallel.group
        mine = (input_ids >= self.start) & (input_ids < self.stop)
        rows = nn.functional.embedding((input_ids - self.start) * mine, self.weight)
        # One rank adds the row, the others exact zeros, so the sum is bitwise equal to the row.
        rows = rows * mine.unsqueeze(-1)
        reduce = reduce_scatter_tokens if self.parallel.sequence else reduce_from_group
        return reduce(rows, group)


class VocabParallelDecoder(nn.Module):
    """Tied decoder with bias, sharded by the same ranges of rows as the embedding."""

    def __init__(self, embedding: VocabParallelEmbedding) -> None:
        super().__init__()
        self.group, self.vocab_start = embedding.parallel.group, embedding.start
        self.weight = embedding.weight
        table = spec_of(embedding.weight)
        vocab_size, hidden_size = table.full_shape
        self.bias = empty_parameter(
            ParameterSpec(
                full_shape=(vocab_size,),
                # The default of torch's linear, unchanged by the original initialization.
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
        """Compute losses or, without labels, logits.

        Args:
            hidden: [K, d], replicated.
            labels: int64 [K].
            weights: float32 [K], factors of the losses.

        Returns:
            float32 losses [K], without materializing the logits; their upstream gradient must be
            the same for all rows. Without labels: float32 logits [K, vocabulary], not
            differentiable.
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
    """Return the granularity of vocabulary shards: 64 rows from a vocabulary of 16,384, else 1.

    On GPUs, matrix products are several times slower for widths that are not multiples of 8.
    """
    return 64 if vocab_size >= 16_384 else 1
