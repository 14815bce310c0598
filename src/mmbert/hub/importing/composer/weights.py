"""Parameters of a Composer checkpoint of FlexBERT, by their names in Hugging Face's ModernBERT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbert.errors import ModelError
from mmbert.hub.weights import DECODER_WEIGHT, EMBEDDING, parameter_shapes
from mmbert.model.config import EncoderConfig

# Segments that wrappers add to names: DDP, torch.compile.
_WRAPPERS = {"module", "_orig_mod"}
_RENAMED = {
    "bert.embeddings.": "model.embeddings.",
    "bert.encoder.layers.": "model.layers.",
    "bert.final_norm.": "model.final_norm.",
}


def hugging_face_name(name: str) -> str:
    """Return ModernBERT's name for a parameter of FlexBERT, such as `model.bert.final_norm.weight`.

    Unknown names are returned without the wrappers' prefixes.
    """
    segments = [segment for segment in name.split(".") if segment not in _WRAPPERS]
    if segments[0] == "model":  # Composer's wrapper
        segments = segments[1:]
    plain = ".".join(segments)
    for theirs, ours in _RENAMED.items():
        if plain.startswith(theirs):
            return ours + plain.removeprefix(theirs)
    return plain


class ComposerWeights:
    """Parameters under Hugging Face's names, memory-mapped.

    The constructor checks names, shapes and the tied decoder against `config`, and raises
    ModelError naming file and tensor.

    Attributes:
        shapes: full shape by name, in the order of the forward pass.
    """

    def __init__(self, path: Path, stored: Mapping[str, Any], config: EncoderConfig) -> None:
        self._path = path
        self._tensors = renamed_tensors(path, stored)
        self.shapes = parameter_shapes(config)
        for name, shape in self.shapes.items():
            if name not in self._tensors:
                raise ModelError(
                    f"{path}: tensor {name} is missing",
                    remedy="give the checkpoint of a masked language model of ModernBERT's trainer",
                )
            found = tuple(self._tensors[name].shape)
            if found != shape:
                raise ModelError(
                    f"{path}: {name} has shape {list(found)}; its configuration requires"
                    f" {list(shape)}",
                    remedy="the configuration belongs to another model",
                )
        for name in self._tensors:
            if name not in self.shapes and name != DECODER_WEIGHT:
                raise ModelError(
                    f"{path}: unexpected tensor {name}",
                    remedy="only ModernBERT's masked language model can be imported",
                )
        decoder = self._tensors.get(DECODER_WEIGHT)
        if decoder is not None and not torch.equal(decoder, self._tensors[EMBEDDING]):
            raise ModelError(
                f"{path}: {DECODER_WEIGHT} differs from {EMBEDDING}",
                remedy="only models with tied embeddings can be imported",
            )

    def read(self, name: str) -> Tensor:
        """Return a parameter as float32. Raises ModelError if it is not finite."""
        tensor = self._tensors[name].to(torch.float32)
        return require_finite(self._path, name, tensor)


def renamed_tensors(path: Path, stored: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the floating-point tensors of `state.model` by their names in Hugging Face."""
    tensors: dict[str, Tensor] = {}
    for theirs, tensor in stored.items():
        name = hugging_face_name(str(theirs))
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or name in tensors:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ModelError(
                f"{path}: {theirs} is a second {name}"
                if name in tensors
                else f"{path}: {theirs} is {kind}, not a floating-point tensor",
                remedy="only checkpoints of ModernBERT's trainer can be imported",
            )
        tensors[name] = tensor
    return tensors


def require_finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return `tensor`; raise ModelError if it has values that are not finite."""
    wrong = int((~torch.isfinite(tensor)).sum())
    if wrong:
        raise ModelError(
            f"{path}: {name} has {wrong} non-finite values",
            remedy="the checkpoint is damaged or its training diverged; use another one",
        )
    return tensor
