"""Tests of the data path: shards, order of data, packing, masking, loading."""
