"""Merging of checkpoints: averages and TIES, of given models or by a run's own recipe."""
