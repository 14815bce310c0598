"""Training state beside imported weights: moments, optimizer step, and place in the schedule.

`mmbert import` writes it from a checkpoint of another trainer:

    training_state.json      settings, place, and checksums of the other two
    optimizer.safetensors    "NAME/exp_avg", "NAME/exp_avg_sq": full float32 tensors
    model.safetensors        the weights that they belong to

It names no step of a recipe: that is sought when training starts.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from mmbert.checkpoint.engine_protocols import LoadableEngine
from mmbert.checkpoint.format import FileEntry, check_file
from mmbert.errors import CheckpointError
from mmbert.parallel.zero_fragment import MASTER, ParameterFragment

STATE_NAME = "training_state.json"
MOMENTS_NAME = "optimizer.safetensors"
FORMAT = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImportedOptimizer(_Model):
    """Settings of the optimizer at the time of saving."""

    name: Literal["stable_adamw"]
    steps: int
    """Optimizer steps so far, over all phases."""
    learning_rate: float
    """Peak rate over all phases, at which the weight decay applies in full."""
    next_learning_rate: float
    """Rate that the other trainer would have taken in its next step."""
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class ImportedState(_Model):
    """Contents of training_state.json."""

    format: int = FORMAT
    source: str
    """Trainer and file that the state comes from."""
    phase: str | None
    """Phase of the recipe that the state is from; None if not stated at import."""
    tokens: int
    """Tokens so far, from the start that `counted_from` names."""
    counted_from: Literal["phase", "run"]
    optimizer: ImportedOptimizer
    attention_output_dropout: float | None
    """Dropout of the training; None if unknown."""
    files: dict[str, FileEntry]
    """Size and checksum of model.safetensors and optimizer.safetensors."""

    def write(self, folder: Path) -> None:
        """Write training_state.json to `folder`."""
        (folder / STATE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def verify(self, folder: Path) -> None:
        """Compare the checksums of weights and moments. Raises CheckpointError naming the file."""
        for name, entry in self.files.items():
            what = check_file(folder / name, entry)
            if what is not None:
                raise CheckpointError(
                    f"{folder / name} {what}",
                    remedy="import the checkpoint again; to start from the weights alone, remove"
                    f" {folder / STATE_NAME}",
                )


def read_imported_state(folder: Path) -> ImportedState | None:
    """Read the training state in the imported folder; None if it has weights alone.

    Raises:
        CheckpointError: the file is invalid.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        return None
    try:
        return ImportedState.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise CheckpointError(
            f"{path} is invalid: {error}",
            remedy="import the checkpoint again; to start from the weights alone, remove the file",
        ) from error


@torch.no_grad()
def load_moments(engine: LoadableEngine, folder: Path, steps: int) -> None:
    """Load the moments of `folder`, of any grid and ZeRO stage, into `engine`; set its steps.

    Raises:
        CheckpointError: the file cannot be read, or belongs to another model.
    """
    path = folder / MOMENTS_NAME
    try:
        with safe_open(str(path), framework="pt") as file:
            for fragment in engine.fragments():
                for state, tensor in fragment.states.items():
                    if state != MASTER:
                        tensor.copy_(_read(file, fragment, state))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"cannot read the optimizer state in {path}: {error}",
            remedy="import the checkpoint again",
        ) from error
    engine.set_steps_taken(steps)


def _read(file: safe_open, fragment: ParameterFragment, state: str) -> torch.Tensor:
    """Return the fragment's elements of a moment."""
    spec = fragment.spec
    stored = file.get_slice(f"{fragment.name}/{state}")
    if tuple(stored.get_shape()) != spec.full_shape:
        raise ValueError(
            f"{state} of {fragment.name} has shape {stored.get_shape()}, not {spec.full_shape}"
        )
    ranges = spec.ranges(fragment.tensor_rank, fragment.tensor_size)
    along = spec.split_dimension or 0
    pieces = [stored[a:b] if along == 0 else stored[:, a:b] for a, b in ranges]
    shard = torch.cat(pieces, along).flatten()
    return shard[fragment.start : fragment.start + fragment.length]
