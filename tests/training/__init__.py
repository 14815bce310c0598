"""Tests of the training loop, the engine, metrics and fault tolerance."""
