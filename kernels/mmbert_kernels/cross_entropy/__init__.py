"""Linear cross-entropy: logits, softmax and loss without materializing all logits.

- `linear_cross_entropy`: the operation.
- `cpu_blocks`: its reference, cache-blocked for CPUs.
- `triton_kernels`: its Triton kernels.
"""
