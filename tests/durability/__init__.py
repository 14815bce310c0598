"""Tests of the state after a simulated power loss."""
