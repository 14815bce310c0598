"""The devices of a drill: a rank on each of at most two GPUs, or two ranks on the CPU."""

import os
import platform
from dataclasses import dataclass

import torch

from mmbert.fault_drill.comparison import GPU_TOLERANCE

_MOST_RANKS = 2


@dataclass(frozen=True)
class Device:
    """Devices of the ranks of a drill."""

    name: str
    ranks: int
    on_cpu: bool
    tolerance: float
    """Largest accepted difference of losses and weights; 0: the same to the bit."""


def find_device() -> Device:
    """Return GPUs, if there are any and DS_ACCELERATOR is not cpu; else the CPU."""
    count = 0 if os.environ.get("DS_ACCELERATOR") == "cpu" else torch.cuda.device_count()
    if count == 0:
        return Device(f"the CPU ({platform.machine()})", _MOST_RANKS, True, 0.0)
    name = torch.cuda.get_device_name(0)
    return Device(name, min(count, _MOST_RANKS), False, GPU_TOLERANCE)
