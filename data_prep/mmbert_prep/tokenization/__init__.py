"""Tokenizers: training, loading, converting, and encoding exactly and fast."""
