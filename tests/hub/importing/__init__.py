"""Tests of mmbert.hub.importing."""
