"""Tests of mmbert.data.node_copy."""
