"""The training job.

- `main`: the job from its options to its exit status.
- `launcher_env`, `run_config`, `run_folder`, `determinism`, `build_trainer`: setup.
- `launch`: what the ranks know of each other before they are connected.
- `loop`, `trainer`, `train_step`, `metrics_processor`, `trainer_parts`: training.
- `nodes`: agreement of the nodes, copies of shards on their disks, speed of their links.
- `engine`: DeepSpeed engine, optimizers and host synchronization.
- `fault_tolerance`: hangs, loss spikes, signals, device memory.
- `metrics`: measuring and logging.
"""

import os

# DeepSpeed applies torch.compile to a function on import, which would load inductor and take
# seconds in every process. Nothing in this package uses torch.compile.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
