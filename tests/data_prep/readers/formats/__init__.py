"""Tests of mmbert_prep.readers.formats."""
