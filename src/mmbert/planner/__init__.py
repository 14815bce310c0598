"""What a recipe will cost before a GPU-hour is spent: `plan(recipe, …)` and `render(plan)`."""

from mmbert.hardware import GPUS, Gpu, find_gpu
from mmbert.planner.estimate import Layout, PhaseCost, Plan
from mmbert.planner.memory import DeviceMemory, device_memory, usable_bytes
from mmbert.planner.parameter_count import ParameterCount, count_parameters, flops_per_token
from mmbert.planner.plan import DEFAULT_UTILISATION, plan
from mmbert.planner.render import render

__all__ = [
    "DEFAULT_UTILISATION",
    "GPUS",
    "DeviceMemory",
    "Gpu",
    "Layout",
    "ParameterCount",
    "PhaseCost",
    "Plan",
    "count_parameters",
    "device_memory",
    "find_gpu",
    "flops_per_token",
    "plan",
    "render",
    "usable_bytes",
]
