"""Tests of the process grid, collectives, sharded parameters and parallel layers."""
