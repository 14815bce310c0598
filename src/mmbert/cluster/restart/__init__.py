"""Restarts of a training job inside its Slurm allocation: `python -P -m mmbert.cluster.restart`.

- `loop`: starts the ranks; after a failure starts them again, requeues the job or ends it.
- `rank_start`: one start of all ranks with `srun`, and why it ended.
- `failure_cause`: the cause of a start's end, and what to do next; pure functions.
- `placement`: the largest process grid of the recipe that fits the allocation.
- `left_out_nodes`: nodes that the next start does without.
- `start_journal`: the starts and dead nodes in the run's journals.
- `slurm_job`: the job, its allocation and its nodes, by Slurm's commands.
"""
