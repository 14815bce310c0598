"""`mmbert.cluster`: site files, the chain of jobs, counting of starts, status; without Slurm."""
