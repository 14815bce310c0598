"""Tests of what ranks know of each other before they are connected."""
