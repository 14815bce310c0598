"""Tests of mmbert_prep.executor."""
