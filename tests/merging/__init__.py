"""Tests of mmbert.merging."""
