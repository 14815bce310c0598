"""Rotary position embedding of packed queries and keys.

- `rotary`: the operation.
- `tables`: cosines and sines by position.
- `triton_kernels`: its Triton kernels.
"""
