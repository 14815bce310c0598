"""The training job, in the order in which it is read.

- `main`: from options to exit status; `launcher_env`, `run_config`, `run_folder`, `determinism`:
  what is known before anything starts; `build_trainer` puts the parts together.
- `loop`, `trainer`, `train_step`, `metrics_processor`: the run itself; `components`: parts of the
  trainer.
- `engine`: DeepSpeed, the optimizer, and the one read of a step.
- `fault_tolerance`: hangs, spikes, signals, memory.
- `metrics`: what is measured and logged.
"""

import os

# Nothing here is compiled by torch, but importing DeepSpeed decorates a function with
# torch.compile, which would load all of inductor: seconds in every process.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
