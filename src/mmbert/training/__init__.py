"""The training loop, the engine behind it, and what a long run needs besides."""
