"""Tests of the training loop, the engine, the optimiser, checkpoints and faults."""
