"""Tests of mmbert_kernels.stable_adamw."""
