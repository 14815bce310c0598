"""The arithmetic that training a row needs: counted once, for plans, logs, benchmarks and reports.

Counted are the multiply-adds (2 FLOPs) of the matrix products, forward once and backward twice
(the gradients of both factors), of what the loss depends on and nothing else. Per token, with
hidden size d, intermediate size f, vocabulary V:

    layers    6 · (4d² + 3df) each           attention   12 · d · keys each
    head      6 · (d² + dV) per masked token only

4d² are queries, keys, values and attention's output; 3df are gate, up and down. `keys` is what a
token attends to: its whole document in a global layer, at most the local window and itself in a
local one; it counts twice, for scores and for their products with the values.

Not counted: what runs again (recomputation, and the scores that flash attention makes anew in its
backward pass), tiles that a kernel computes and masks, padding, the look-up of embeddings, norms,
activations, rotations, softmax, and the optimiser. So it is the same for every implementation, and
less than what a device executes.
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
    """The layers' linear products."""
    head: float
    global_attention: float
    local_attention: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.encoder + self.head + self.global_attention + self.local_attention

    def per(self, tokens: float) -> "Flops":
        """The same for one of `tokens` tokens."""
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
) -> Flops:
    """FLOPs of training on one row, forward and backward, as this file's heading counts them.

    Args:
        lengths: tokens of each document really in the row, begin and end included.
        masked_tokens: mask slots of the row, filled or not: they are computed either way.
    """
    d, f = model.hidden_size, model.intermediate_size
    documents = np.asarray(lengths, dtype=np.float64)
    tokens = float(documents.sum())
    global_layers = len(range(0, model.num_hidden_layers, model.global_attention_every))
    local_layers = model.num_hidden_layers - global_layers
    local_keys = np.minimum(documents, model.local_window + 1)
    return Flops(
        encoder=6.0 * tokens * model.num_hidden_layers * (4 * d * d + 3 * d * f),
        head=6.0 * masked_tokens * (d * d + d * vocabulary_size),
        global_attention=12.0 * d * global_layers * float((documents * documents).sum()),
        local_attention=12.0 * d * local_layers * float((documents * local_keys).sum()),
    )


def training_flops(
    model: ModelSettings,
    vocabulary_size: int,
    lengths: Sequence[float] | npt.NDArray[np.int64],
    masked_tokens: float,
) -> float:
    """`flops_by_part`, all parts together."""
    return flops_by_part(model, vocabulary_size, lengths, masked_tokens).total
