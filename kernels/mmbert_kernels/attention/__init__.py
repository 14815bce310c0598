"""Attention over packed sequences: the operation and its implementations.

`mmbert_kernels.attention` is the function; this package's modules are imported by their names.
"""
