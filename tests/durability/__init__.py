"""Tests of what a power loss leaves behind."""
