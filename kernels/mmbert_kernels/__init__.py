"""Fused operations of the encoder and its optimizer, each with a plain-PyTorch reference.

`support.dispatch` chooses the backend of every operation once per device type. The package does
not import mmbert.

- `geglu`: gated GELU.
- `gather_rows`, `scatter_rows`: gather of rows, and its deterministic backward pass.
- `cross_entropy`: linear cross-entropy over a large vocabulary.
- `newton_schulz`: orthogonalization of a matrix.
- `norms`: layer norm with residual addition, dropout and embedding look-up.
- `packed_attention`: attention within the documents of a packed row.
- `rotary_embedding`: rotary position embedding.
- `stable_adamw`: the optimizer step on flat partitions.
- `support`: dispatch, argument checks, Triton's import, matrix products.
"""

from mmbert_kernels.cross_entropy.linear_cross_entropy import linear_cross_entropy
from mmbert_kernels.gather_rows import gather_rows
from mmbert_kernels.geglu import geglu
from mmbert_kernels.newton_schulz import (
    NEWTON_SCHULZ_STEPS,
    NewtonSchulzSteps,
    newton_schulz,
)
from mmbert_kernels.norms.dropout import Dropout
from mmbert_kernels.norms.embedding_layer_norm import embedding_layer_norm
from mmbert_kernels.norms.layer_norm import add_layer_norm, layer_norm, prenorm_layer_norm
from mmbert_kernels.packed_attention.attention import attention, rotary_attention
from mmbert_kernels.rotary_embedding.rotary import rotary
from mmbert_kernels.stable_adamw.stable_adamw import (
    TensorSpans,
    debiased_beta,
    stable_adamw_apply,
    stable_adamw_sums,
    update_rms,
)
from mmbert_kernels.support.dispatch import (
    backends,
    computes_in_bfloat16,
    nondeterministic_operations,
)
from mmbert_kernels.support.host_memory import keep_freed_memory
from mmbert_kernels.support.matmul import matmul

__all__ = [
    "NEWTON_SCHULZ_STEPS",
    "Dropout",
    "NewtonSchulzSteps",
    "TensorSpans",
    "add_layer_norm",
    "attention",
    "backends",
    "computes_in_bfloat16",
    "debiased_beta",
    "embedding_layer_norm",
    "gather_rows",
    "geglu",
    "keep_freed_memory",
    "layer_norm",
    "linear_cross_entropy",
    "matmul",
    "newton_schulz",
    "nondeterministic_operations",
    "prenorm_layer_norm",
    "rotary",
    "rotary_attention",
    "stable_adamw_apply",
    "stable_adamw_sums",
    "update_rms",
]
