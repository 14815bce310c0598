"""Tests of mmbert_prep.losses."""
