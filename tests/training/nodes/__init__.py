"""Tests of mmbert.training.nodes."""
