"""Tests of the encoder: parity, sameness at every grid, initialisation, memory."""
