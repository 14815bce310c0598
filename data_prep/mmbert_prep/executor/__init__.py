"""Distribution of work over any number of processes.

- `workers`: groups of Slurm tasks, MPI ranks, or a single process.
- `local_workers`: groups of processes of this machine.
- `claims`: which worker runs which task.
- `work_units`: the tasks: ranges of input files.
- `stages`: phases of shared work between two barriers.
- `workspace`, `storage`: folder and JSON files of intermediate results.
- `lock`: lock of the output folder.
- `progress`: one progress bar for all workers.
"""
