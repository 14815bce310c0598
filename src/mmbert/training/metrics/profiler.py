"""Chrome traces of training steps, recorded by the PyTorch profiler."""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first steps are not representative: they allocate memory, build tables and compile kernels.
SKIPPED_STEPS = 2


class Profiler:
    """Writes a trace of `steps` steps of this process to `folder`; disabled if `steps` is 0."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps = folder, steps
        self._seen = 0
        self._profile: Any = None

    @property
    def active(self) -> bool:
        """Whether a trace was requested and is not yet written."""
        return self._steps > 0 and (self._profile is not None or self._seen <= SKIPPED_STEPS)

    def step(self) -> Path | None:
        """Start or end the trace; call before each step. Return the path of a trace now written."""
        if self._steps == 0:
            return None
        self._seen += 1
        if self._seen == SKIPPED_STEPS + 1:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.start()
        elif self._profile is not None and self._seen == SKIPPED_STEPS + 1 + self._steps:
            return self.close()
        return None

    def close(self) -> Path | None:
        """Write the running trace, if any, and return its path."""
        if self._profile is None:
            return None
        self._profile.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"steps-{self._steps}.json"
        self._profile.export_chrome_trace(str(path))
        self._profile = None
        return path
