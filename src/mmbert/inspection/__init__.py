"""Human-readable views of files.

- `shards`: languages and tokens, epochs under a recipe, single documents.
- `checkpoints`: runs, checkpoints and the documents of a training step.
"""
