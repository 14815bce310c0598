"""Tests of the `mmbert` command itself."""
