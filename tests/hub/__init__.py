"""Tests of mmbert.hub."""
