"""Tests of mmbert.data.loading: rows and batches."""
