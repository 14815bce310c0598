"""Tests of mmbert_prep.tokenization."""
