"""Tests of mmbert.data: shards, order of data, packing, masking, loading."""
