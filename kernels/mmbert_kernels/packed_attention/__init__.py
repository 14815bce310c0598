"""Attention over packed sequences: the operation and its implementations."""
