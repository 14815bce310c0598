"""Tests of mmbert.cli."""
