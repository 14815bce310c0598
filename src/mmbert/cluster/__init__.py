"""Jobs of a Slurm cluster: the chain of jobs, and restarts inside a job.

- `restart`: restarts inside a training job, on as many of its nodes as the recipe can use.
- `site`: values of a site (partition, modules, container, variables), from one file.
- `site_script`: what jobs do with them: the file that they source, and srun's command lines.
- `chain`: the output folder of a chain of jobs, and its record.
- `steps`: the steps of a chain, which of them are done, and their commands.
- `grid`: nodes and ranks of the training, held against the recipe before anything is submitted.
- `submission`: submitting the steps that are left, or printing their commands.
- `demo`: the corpus and the recipe of a chain without arguments.
- `attempts`: counting starts across requeues, and stopping a job that fails again and again.
- `monitoring`: what `mmbert status` shows.
"""
