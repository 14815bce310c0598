"""Tests that span packages: end to end, several nodes and grids, Hugging Face round trip."""
