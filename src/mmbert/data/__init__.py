"""Training data, from shards on disk to batches on the device.

- `shards`: what preprocessing wrote, opened through its manifests. A *piece* is a document or a
  part of a long one, a *component* one language of one source.
- `sampling`: which piece comes next; a pure function of recipe, manifests and seed.
- `loading`: pieces become packed, masked rows, in this process or read ahead by others.

Row i of a run depends on recipe, manifests, seed and i alone: ranks, workers and restarts only
decide who makes it.
"""
