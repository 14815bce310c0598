"""What `mmbert status` shows of a chain of jobs or a run.

- `queue`: jobs of Slurm's queue and accounting.
- `gpu_hours`: what the starts of a run used, and what restarts lost of it.
- `run_progress`: place, speed and end of a run, from its log.
- `job_states`: the state of every step, from queue, files and logs.
- `status`: all of it together.
- `rendering`: the screen.
"""
