"""The training loop, the engine behind it, and what a long run needs besides."""

import os

# Nothing here is compiled by torch, but importing DeepSpeed decorates a function with
# torch.compile, which would load all of inductor: seconds in every process.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
