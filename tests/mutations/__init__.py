"""Faults kept as patches, each of which a test must see, and the command that tries them."""
