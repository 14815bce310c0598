"""Tests of mmbert.training.fault_tolerance."""
