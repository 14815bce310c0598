"""Tensor parallelism: process grid, collectives, sharded parameters and the layers that use them.

- `process_grid`: tensor-parallel and data-parallel groups.
- `collectives`: collectives with gradients.
- `parameter_spec`: sharding of parameters.
- `matrix_routing`: owners of matrices whose updates need them whole.
- `linear`: column-parallel and row-parallel linear functions.
- `layers`: linear layers and layer norm.
- `vocab_layers`: embedding and decoder.
- `gradient_hooks`: all-reduced gradients, and gradients kept in float32.
- `sanity_checks`: checks that all ranks agree.
- `host_group`: host-side collectives for bookkeeping.
- `zero_buffers`, `zero_fragment`: ZeRO's buffer sizes, and its part of a parameter.
"""
