"""Attention over packed sequences.

- `attention`: the operation, with or without rotation.
- `cpu_blocked`, `cpu_dense`: attention on a CPU.
- `gpu_libraries`: flash-attn and PyTorch's variable-length attention.
- `gpu_plain`: attention on a GPU in plain PyTorch, for float32.
"""
