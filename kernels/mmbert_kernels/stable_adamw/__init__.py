"""StableAdamW step on flat partitions.

- `stable_adamw`: the operation.
- `triton_kernels`: its Triton kernels.
"""
