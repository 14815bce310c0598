"""Tests of mmbert_kernels.packed_attention."""
