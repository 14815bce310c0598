"""Checkpoints of a run, written by any process grid and read by any other.

- `format`: safetensors files of float32 slices, and the index that describes them.
- `writer`: copy to host memory, one file per rank, commit by a rename.
- `reader`: ranges of a new grid's shards, or whole tensors.
- `store`: the checkpoints of a run folder: save, list, verify, load, delete.
- `resume_check`: refusal to continue with a recipe that would have drawn other data.
- `safetensors_header`: the head of a safetensors file that is written tensor by tensor.
"""
