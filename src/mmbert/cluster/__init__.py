"""Jobs of a Slurm cluster: the chain of jobs, and restarts inside a job.

- `site`: values of a site (partition, modules, container, variables), from one file.
"""
