"""Details of a start event in `log.jsonl`: recipe, machines, versions, size of the data."""

import platform
from typing import Any

import torch

from mmbert.training.nodes.versions import package_versions
from mmbert.training.run_config import RunConfig


def start_details(
    run: RunConfig, *, hosts: int, devices: int, device: torch.device
) -> dict[str, Any]:
    """Return what this start of training runs and where, for `mmbert report`.

    Args:
        hosts: number of machines.
        devices: number of devices of all machines, one per rank.
        device: the device of this rank.
    """
    return {
        "recipe": run.recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
        "hosts": hosts,
        "devices": devices,
        "device_name": device_name(device),
        "versions": package_versions(),
        "train_tokens_by_language": run.table.by_language(run.table.train_tokens),
    }


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, or the architecture of a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
