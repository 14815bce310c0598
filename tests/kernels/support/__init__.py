"""Tests of mmbert_kernels.support."""
