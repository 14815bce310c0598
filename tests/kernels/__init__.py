"""Tests of the fused operations."""
