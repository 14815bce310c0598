"""Pretraining of multilingual encoders with annealed language learning (the mmBERT system)."""

__version__ = "0.1.0"
