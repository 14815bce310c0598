"""Tests in separate virtual environments: oldest releases, and offline installation."""
