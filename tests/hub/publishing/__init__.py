"""Publishing of runs."""
