"""Jobs of a Slurm cluster: the chain of jobs, and restarts inside a job.

- `restart`: restarts inside a training job, on as many of its nodes as the recipe can use.
- `site`: values of a site (partition, modules, container, variables), from one file.
"""
