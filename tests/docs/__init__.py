"""Tests of README and docs: marks of fenced blocks, commands that parse, commands that run."""
