"""The training job.

- `main`: from options to exit status; `launcher_env`, `run_config`, `run_folder`, `determinism`:
  setup before training; `build_trainer` builds the parts.
- `loop`, `trainer`, `train_step`, `metrics_processor`: training; `components`: its parts.
- `engine`: DeepSpeed, the optimizer, and the one read of a step.
- `fault_tolerance`: hangs, spikes, signals, memory.
- `metrics`: measuring and logging.
"""

import os

# Importing DeepSpeed decorates a function with torch.compile, which would load all of inductor and
# cost seconds in every process, though nothing here is compiled by torch.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
