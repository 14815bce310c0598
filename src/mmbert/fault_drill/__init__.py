"""Fault drill: a small run is disturbed, continued, and compared with an undisturbed one.

- `faults`: the faults, with what has to happen after each.
- `injection`: what a rank does to itself at a step: signals, file size, connections.
- `rank`: the program of a rank, training with an injection.
- `ranks`: start, wait for and end the ranks, as a launcher.
- `proxy`: a TCP proxy before the port of rank 0, which can be cut.
- `inputs`: text, recipe and shards of the small run.
- `device`: GPUs or the CPU.
- `comparison`: losses and weights of two runs.
- `drill`: the faults in turn, below one folder.
- `outcome`: the result, as a table and a file.
"""
