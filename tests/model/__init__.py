"""Tests of the encoder: parity with transformers, initialization, memory."""
