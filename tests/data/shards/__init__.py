"""Tests of mmbert.data.shards: shards on disk."""
