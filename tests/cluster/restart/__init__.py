"""Tests of the restart loop."""
