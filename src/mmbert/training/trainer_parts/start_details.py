"""What a start of training logs: recipe, machines, versions, size of the data, process grid."""

import platform
from collections.abc import Sequence
from typing import Any

import torch

from mmbert.model.flops import MFU_FORMULA
from mmbert.recipe import dump_recipe
from mmbert.training.engine.engine import Engine
from mmbert.training.metrics.loggers.base_logger import RunInfo
from mmbert.training.metrics.loggers.console_logger import format_count
from mmbert.training.metrics.loggers.container import LoggerContainer
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


def open_loggers(
    run: RunConfig,
    engine: Engine,
    loggers: LoggerContainer,
    step: int,
    start: str,
    *,
    hosts: Sequence[str],
    warnings: Sequence[str],
) -> None:
    """Open the loggers; log the start with its details, warnings and the recipe.

    Args:
        step: first step of this start.
        start: what it starts from, in words.
        warnings: of the data; those of the recipe come first.
    """
    info = RunInfo(
        folder=run.folder,
        name=run.recipe.name,
        first_step=step,
        steps=run.plan.steps,
        phases=tuple(phase.name for phase in run.plan.phases),
        largest_languages=tuple(run.table.largest_languages()),
        rate_groups=tuple(run.recipe.optimizer.given_group_rates),
    )
    loggers.open(info, run.recipe.logging.loggers)
    details = start_details(
        run, hosts=len(hosts), devices=engine.grid.world_size, device=engine.device
    )
    loggers.event("start", step, start, **details)
    for warning in (*run.warnings, *warnings):
        loggers.event("warning", step, f"warning: {warning}")
    loggers.text("about/recipe", f"```yaml\n{dump_recipe(run.recipe)}```")
    loggers.text("about/mfu", MFU_FORMULA)


def log_setup(
    run: RunConfig,
    engine: Engine,
    loggers: LoggerContainer,
    hosts: Sequence[str],
    peaks: dict[str, int],
) -> None:
    """Log devices, nodes, process grid, model size and the peak memory of each phase in bytes."""
    grid, recipe, device = engine.grid, run.recipe, engine.device
    memory = ", ".join(f"{name} {peak / 2**30:.1f} GiB" for name, peak in peaks.items() if peak)
    loggers.message(
        f"{grid.world_size} × {device.type} ({device_name(device)}) on {_describe_nodes(hosts)}: "
        f"{grid.data.size} data ranks × {grid.tensor.size} tensor ranks, "
        f"ZeRO {recipe.parallel.zero_stage}, {recipe.precision}; "
        f"{format_count(_parameter_count(engine))} parameters; "
        f"{len(run.table.names)} languages and sources; "
        f"largest batch of every phase fits{f' ({memory})' if memory else ''}"
    )


def _describe_nodes(hosts: Sequence[str]) -> str:
    """Return the number of nodes and their names, which show if the launcher has lost some."""
    names = ", ".join(hosts[:4]) + (", …" if len(hosts) > 4 else "")
    return f"{len(hosts)} machine{'' if len(hosts) == 1 else 's'} ({names})"


def _parameter_count(engine: Engine) -> int:
    """Count the parameters of the whole model, on any process grid."""
    return sum(torch.Size(entry.full_shape).numel() for entry in engine.specs)
