"""Tests of the training loop, its engine, its memory of itself and what it tells."""
