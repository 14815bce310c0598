"""Checkpoints of a run, written on any process grid and read on any other.

- `format`: safetensors files of float32 slices and their index.
- `staging`: copy of a rank's fragments in host memory.
- `writer`: one file per rank, commit by a rename.
- `reader`: ranges of a new grid's shards, or full tensors.
- `store`: save, list, verify, load and delete the checkpoints of a run folder.
- `listing`: the checkpoints of a run folder by name and size, without torch.
- `engine_protocols`: interfaces of an engine for saving and loading.
- `resume_check`: refusal to resume with a recipe that would have drawn other data.
- `imported_state`, `imported_start`: state of another trainer, and the step to continue from.
- `safetensors_header`: header of a safetensors file that is written tensor by tensor.
"""
