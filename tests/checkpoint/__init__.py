"""Tests of mmbert.checkpoint."""
