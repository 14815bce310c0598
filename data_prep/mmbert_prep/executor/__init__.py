"""Work shared by any number of processes: units, claims, stages, progress.

- `workers`: processes of this machine, Slurm tasks or MPI ranks that work together.
- `work_units`: what is shared: byte ranges of the input.
- `stages`: between two barriers, tasks are claimed and progress is shown.
- `workspace`, `storage`, `lock`: intermediate files, JSON among them, and whose folder it is.
- `progress`: one progress bar for all workers.
"""
