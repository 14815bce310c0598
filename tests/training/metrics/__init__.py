"""Tests of mmbert.training.metrics."""
