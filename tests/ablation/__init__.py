"""Tests of mmbert.ablation."""
