"""Checkpoints of a run, written on any process grid and read on any other.

- `format`: safetensors files of float32 slices and their index.
- `writer`: staging in host memory, one file per rank, commit by a rename.
- `reader`: ranges of a new grid's shards, or full tensors.
- `store`: save, list, verify, load and delete the checkpoints of a run folder.
- `resume_check`: refusal to resume with a recipe that would have drawn other data.
- `safetensors_header`: header of a safetensors file that is written tensor by tensor.
"""
