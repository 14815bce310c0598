"""Initial weights from a model imported by `mmbert import`."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mmbert.errors import ModelError
from mmbert.parallel.parameter_spec import spec_of
from mmbert.parallel.process_grid import TensorGroup


@torch.no_grad()
def load_initial_weights(model: nn.Module, folder: Path, group: TensorGroup) -> None:
    """Load each parameter's shard from the float32 tensor of the same name in model.safetensors.

    Raises:
        ModelError: the file cannot be read, or belongs to a different model.
    """
    path = folder / "model.safetensors"
    remedy = "use a folder written by `mmbert import HF_FOLDER OUT`, for a model of these sizes"
    try:
        with safe_open(str(path), framework="pt") as file:
            names = set(file.keys())
            for name, parameter in model.named_parameters():
                spec = spec_of(parameter)
                if name not in names:
                    raise ModelError(f"{path} has no parameter {name}", remedy=remedy)
                stored = file.get_slice(name)
                shape = tuple(stored.get_shape())
                if shape != spec.full_shape:
                    raise ModelError(
                        f"{path}: {name} has shape {shape} instead of the recipe's "
                        f"{spec.full_shape}",
                        remedy=remedy,
                    )
                # Read only this rank's rows or columns.
                ranges = spec.ranges(group.rank, group.size)
                along = spec.split_dimension or 0
                pieces = [stored[a:b] if along == 0 else stored[:, a:b] for a, b in ranges]
                parameter.copy_(torch.cat(pieces, along))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"initial_checkpoint: cannot read {path}: {error}", remedy=remedy
        ) from error
