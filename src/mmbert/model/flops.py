"""FLOPs of training on a row, used by plans, logs, benchmarks and reports.

Counts the multiply-adds (2 FLOPs) of the matrix products that the loss depends on, once forward
and twice backward (the gradients of both factors). Per token, with hidden size d, intermediate
size f, vocabulary V:

    layers    6 · (4d² + 3df) each           attention   12 · d · keys each
    head      6 · (d² + dV) per masked token only

4d² are queries, keys, values and attention's output; 3df are gate, up and down. `keys` is the
number of tokens attended to: the whole document in a global layer, at most the local window plus
the token itself in a local one. It counts twice: for the scores and for their product with the
values. In a causal phase token i of a document, from 1, attends to i in a global layer and to at
most half of the window plus itself in a local one: these keys are counted one by one.

Excluded: recomputation (including the scores in flash attention's backward pass), masked tiles of a
kernel, padding, embedding look-up, norms, activations, rotations, softmax and the optimizer. The
count is therefore independent of the implementation, and less than a device executes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmbert.recipe import ModelSettings

MFU_FORMULA = (
    "MFU = FLOPs of the step / (seconds · devices · peak); FLOPs = 6·tokens·layers·(4d² + 3df) + "
    "12·d·Σ keys + 6·masked·(d² + dV)"
)


@dataclass(frozen=True)
class Flops:
    """Training FLOPs by part, forward and backward."""

    encoder: float
    """Linear products of the layers."""
    head: float
    global_attention: float
    local_attention: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.encoder + self.head + self.global_attention + self.local_attention

    def per(self, tokens: float) -> "Flops":
        """Return the FLOPs per token for a total of `tokens`."""
        return Flops(
            self.encoder / tokens,
            self.head / tokens,
            self.global_attention / tokens,
            self.local_attention / tokens,
        )


def flops_by_part(
    model: ModelSettings,
    vocabulary_size: int,
    lengths: Sequence[float] | npt.NDArray[np.int64],
    masked_tokens: float,
    *,
    causal: bool = False,
) -> Flops:
    """Return the FLOPs of training on one row, forward and backward.

    Args:
        model: the recipe's model.
        vocabulary_size: number of token ids.
        lengths: tokens of each document in the row, including begin and end, without padding.
        masked_tokens: mask slots of the row, including unused ones, which are computed too.
        causal: whether tokens attend to no later ones.
    """
    d, f = model.hidden_size, model.intermediate_size
    documents = np.asarray(lengths, dtype=np.float64)
    tokens = float(documents.sum())
    global_layers = len(range(0, model.num_hidden_layers, model.global_attention_every))
    local_layers = model.num_hidden_layers - global_layers
    if causal:
        global_pairs = documents * (documents + 1) / 2
        # The tokens after the first `reach` attend to the full half of the window.
        reach = np.minimum(documents, model.local_window // 2 + 1)
        local_pairs = reach * (reach + 1) / 2 + (documents - reach) * reach
    else:
        global_pairs = documents * documents
        local_pairs = documents * np.minimum(documents, model.local_window + 1)
    return Flops(
        encoder=6.0 * tokens * model.num_hidden_layers * (4 * d * d + 3 * d * f),
        head=6.0 * masked_tokens * (d * d + d * vocabulary_size),
        global_attention=12.0 * d * global_layers * float(global_pairs.sum()),
        local_attention=12.0 * d * local_layers * float(local_pairs.sum()),
    )


def training_flops(
    model: ModelSettings,
    vocabulary_size: int,
    lengths: Sequence[float] | npt.NDArray[np.int64],
    masked_tokens: float,
    *,
    causal: bool = False,
) -> float:
    """Return the total FLOPs of training on one row, the sum of `flops_by_part`."""
    return flops_by_part(model, vocabulary_size, lengths, masked_tokens, causal=causal).total
