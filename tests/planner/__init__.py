"""Tests of mmbert.planner."""
