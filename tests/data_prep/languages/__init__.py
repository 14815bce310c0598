"""Tests of the languages as people write them."""
