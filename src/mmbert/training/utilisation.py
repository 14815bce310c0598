"""Model-FLOPs utilisation: the arithmetic a step needs, over what the devices could do meanwhile.

Counted are the multiply-adds (2 FLOPs) of the matrix products, forward once and backward twice,
and nothing that is recomputed. Per token, with hidden size d, intermediate size f, vocabulary V:

    layers    6 · (4d² + 3df) each           attention   12 · d · keys each
    head      6 · (d² + dV) per masked token only

`keys` is what a token attends to: its whole document in a global layer, at most the local window
(and itself) in a local one. It is counted from the documents really packed, not from the context.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmbert.recipe import ModelSettings

FORMULA = (
    "MFU = FLOPs of the step / (seconds · devices · peak); FLOPs = 6·tokens·layers·(4d² + 3df) + "
    "12·d·Σ keys + 6·masked·(d² + dV)"
)

# Dense bfloat16 FLOP/s with float32 accumulation, from the vendor's data sheets; the first name
# that the device's own name contains.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("RTX 4090", 165e12),
)


def peak_flops(device_name: str) -> float | None:
    """The peak of a device called `device_name` (torch.cuda.get_device_name); None: not known."""
    return next((peak for name, peak in PEAK_FLOPS if name in device_name), None)


def training_flops(
    model: ModelSettings,
    vocabulary_size: int,
    lengths: Sequence[int] | npt.NDArray[np.int64],
    masked_tokens: int,
) -> float:
    """FLOPs of one row, forward and backward.

    Args:
        lengths: tokens of each document in the row.
        masked_tokens: mask slots of the row, filled or not: they are computed either way.
    """
    d, f = model.hidden_size, model.intermediate_size
    documents = np.asarray(lengths, dtype=np.float64)
    global_layers = len(range(0, model.num_hidden_layers, model.global_attention_every))
    local_layers = model.num_hidden_layers - global_layers
    local_keys = np.minimum(documents, model.local_window + 1)
    keys = float((documents * (global_layers * documents + local_layers * local_keys)).sum())
    layers = 6.0 * documents.sum() * model.num_hidden_layers * (4 * d * d + 3 * d * f)
    return float(layers + 12.0 * d * keys + 6.0 * masked_tokens * (d * d + d * vocabulary_size))
