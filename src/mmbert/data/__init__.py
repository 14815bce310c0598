"""Shards on disk, and the order of training data. Nothing here but `batch` needs torch.

From the disk up:

- `files`, `manifest`, `tokenizer`, `indexed_dataset`, `pieces`, `corpus`: what preprocessing wrote,
  opened through its manifests; a *piece* is a document or a part of a long one, a *component* one
  language of one source.
- `shares`: how many tokens each component gets in each phase; arithmetic on sizes alone.
- `mixture`: which component the n-th piece of a phase comes from, in closed form.
- `permutation`: the order of a component's pieces within an epoch, by a keyed bijection.
- `consumption`: what earlier phases have drawn, so that the next one goes on where they stopped.
- `phase`: the three together: the sequence of pieces of a phase, and where each lies.
- `packing`, `streams`: V virtual streams share that sequence and pack their part into rows; the
  state of a stream is its position and the few segments that wait.
- `masking`, `rows`, `batch`: a table of segments becomes masked arrays, then tensors.
- `state`: the data state of a checkpoint, and how a phase ends and the next one begins.
- `source`, `workers`, `loader`: the rows of one data rank, in this process or read ahead by others.
- `heldout`, `replay`: the fixed evaluation rows and a unigram baseline; the documents of any step.

Row i of a run is a pure function of recipe, manifests, seed and i: ranks, workers and restarts only
decide who makes it.
"""
