"""Tests of the packed encoder inside live Hugging Face models."""
