"""Tests of mmbert.cluster."""
