"""Tests of mmbert.hub.importing.composer."""
