"""A GPU measured in one command: what is right on it, how fast, and what a real run does."""
