"""Analytical cost model of a recipe: `estimate(recipe, …)` and `render(estimate)`.

- `plan`: the estimate of memory, communication and time on given GPUs.
- `estimate`: its result types.
- `memory`, `communication`, `parameter_count`: the formulas.
- `matrix_exchange`: FLOPs, bytes and messages of Muon.
- `data_statistics`, `languages`: document lengths and language sizes, from shards or published.
- `warnings`: recommendations and likely mistakes.
- `render`: tables for the terminal.
- `curves`, `plot`: the schedule over tokens, and its picture; altair is imported only with `plot`.
"""

from mmbert.hardware import GPUS, Gpu, find_gpu
from mmbert.planner.estimate import Estimate, ParallelLayout, PhaseCost
from mmbert.planner.memory import DeviceMemory, device_memory, usable_bytes
from mmbert.planner.parameter_count import ParameterCount, count_parameters, flops_per_token
from mmbert.planner.plan import DEFAULT_MFU, estimate
from mmbert.planner.render import render

__all__ = [
    "DEFAULT_MFU",
    "GPUS",
    "DeviceMemory",
    "Estimate",
    "Gpu",
    "ParallelLayout",
    "ParameterCount",
    "PhaseCost",
    "count_parameters",
    "device_memory",
    "estimate",
    "find_gpu",
    "flops_per_token",
    "render",
    "usable_bytes",
]
