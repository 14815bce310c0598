"""Tests of mmbert.training.engine."""
