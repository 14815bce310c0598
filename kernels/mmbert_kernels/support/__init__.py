"""Code shared by the operations.

- `dispatch`: choice of backends.
- `checks`: checks of arguments.
- `sequences`: positions and document numbers from cumulative lengths.
- `matmul`: matrix products, on CPUs by oneDNN.
- `triton_import`: Triton, or stubs where it is not installed.
- `host_memory`: memory allocation on CPUs.
"""
