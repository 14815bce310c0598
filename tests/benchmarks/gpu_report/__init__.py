"""Report on a GPU in one command: correctness, speed, a real run."""
