"""Tests of mmbert_prep.filters."""
