"""Shards on disk, and the order of training data: mixture, streams, packing, rows and masks."""
