"""Tests of mmbert_prep.shards."""
