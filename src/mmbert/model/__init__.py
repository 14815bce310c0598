"""The encoder: ModernBERT on packed tokens, built from the layers of mmbert.parallel."""
