"""`mmbert.cluster` without Slurm: site files, the chain of jobs, starts, restarts, status."""
