"""Tests of mmbert.report."""
