"""Tests of mmbert.evaluation."""
