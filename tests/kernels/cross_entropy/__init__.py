"""Tests of mmbert_kernels.cross_entropy."""
