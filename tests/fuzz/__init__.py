"""Fuzzing of every parser: mutated inputs give a valid result or an error for the user."""
