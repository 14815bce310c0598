"""Training data, from shards on disk to batches on the device.

- `shards`: preprocessed tokens, opened through their manifests. A *piece* is a document or a part
  of a long one, a *component* one language of one source.
- `node_copy`: copies of shards on a node's own disk.
- `sampling`: the order of pieces, a pure function of recipe, manifests and seed.
- `loading`: packed, masked rows of pieces, built in this process or read ahead by workers.

Row i of a run depends only on recipe, manifests, seed and i: ranks, workers and restarts only
determine which process builds it.
"""
