"""Tests of mmbert.data.sampling: the order of data."""
