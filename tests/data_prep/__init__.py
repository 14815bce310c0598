"""Tests of the offline pipeline."""
