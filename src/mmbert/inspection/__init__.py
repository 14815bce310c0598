"""Human-readable views of shards, runs and checkpoints.

- `shards`: languages, tokens, epochs under a recipe, and single documents.
- `checkpoints`: runs, checkpoints, and the documents of a training step.
"""
