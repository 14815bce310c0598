"""Tests of mmbert.ownership."""
