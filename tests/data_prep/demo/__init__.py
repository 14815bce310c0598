"""Tests of mmbert_prep.demo."""
