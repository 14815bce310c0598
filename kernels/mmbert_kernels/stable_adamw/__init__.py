"""StableAdamW step on flat partitions.

- `stable_adamw`: the operation.
- `reference`: it in plain PyTorch.
- `triton_kernels`: its Triton kernels.
"""
