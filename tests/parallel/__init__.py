"""Tests of the grid, the collectives, sharded parameters and the parallel layers."""
