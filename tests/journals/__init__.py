"""Tests of mmbert.journals."""
