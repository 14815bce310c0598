"""Tests of mmbert_kernels.norms."""
