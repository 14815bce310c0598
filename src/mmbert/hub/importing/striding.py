"""Strided sampling of a smaller model from a larger one, as mmBERT small was initialized from base.

Keeps evenly spaced hidden channels, heads (whole, so that rotary pairs stay together), inner
channels of the GLU (the same in both halves), and layers.
"""

import torch

from mmbert.errors import ModelError
from mmbert.hub.weights import HuggingFaceWeights, parameter_shapes
from mmbert.model.config import EncoderConfig


def strided_indices(source: int, target: int) -> torch.Tensor:
    """Return `target` evenly spaced indices in 0 … `source` − 1, starting at 0; int64."""
    return torch.arange(target) * source // target


class StridedSampling:
    """Strided sampling of the parameters of `target` from those of `source`.

    Raises UserError if a target size exceeds the source's, or if head size, local window,
    vocabulary size or the interval of global layers differ.
    """

    def __init__(self, source: EncoderConfig, target: EncoderConfig) -> None:
        for key in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        ):  # fmt: skip
            larger, smaller = getattr(source, key), getattr(target, key)
            if smaller > larger:
                raise ModelError(
                    f"{key} {smaller} is larger than the source model's {larger}",
                    remedy="choose smaller sizes: strided sampling only shrinks models",
                )
        for key in ("head_size", "global_attention_every", "local_window", "vocab_size"):
            theirs, ours = getattr(source, key), getattr(target, key)
            if theirs != ours:
                raise ModelError(
                    f"{key} is {ours}, but the source model's is {theirs}",
                    remedy="shrink only widths, heads and layers; keep the head size (64 in the"
                    " presets), the pattern of global layers and the vocabulary",
                )
        self.shapes = parameter_shapes(target)
        self._layers = _source_layers(source, target)
        hidden = strided_indices(source.hidden_size, target.hidden_size)
        heads = strided_indices(source.num_attention_heads, target.num_attention_heads)
        channels = (heads[:, None] * source.head_size + torch.arange(source.head_size)).flatten()
        inner = strided_indices(source.intermediate_size, target.intermediate_size)
        fused = torch.cat([channels + part * source.hidden_size for part in range(3)])
        halves = torch.cat([inner, inner + source.intermediate_size])
        # Rows and columns to keep, by suffix of the parameter name.
        self._kept_indices: dict[str, tuple[torch.Tensor, torch.Tensor | None] | None] = {
            "Wqkv.weight": (fused, hidden),
            "attn.Wo.weight": (hidden, channels),
            "Wi.weight": (halves, hidden),
            "mlp.Wo.weight": (hidden, inner),
            "dense.weight": (hidden, hidden),
            "norm.weight": (hidden, None),
            "tok_embeddings.weight": (torch.arange(source.vocab_size), hidden),
            "decoder.bias": None,
        }

    def source_name(self, name: str) -> str:
        """Return the name of the source parameter for `name`."""
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            parts[2] = str(self._layers[int(parts[2])])
        return ".".join(parts)

    def read(self, weights: HuggingFaceWeights, name: str) -> torch.Tensor:
        """Return parameter `name` of the smaller model, float32."""
        tensor = weights.read(self.source_name(name))
        kept = next(kept for ending, kept in self._kept_indices.items() if name.endswith(ending))
        if kept is None:
            return tensor
        rows, columns = kept
        tensor = tensor.index_select(0, rows) if len(rows) < len(tensor) else tensor
        if columns is not None:
            tensor = tensor.index_select(1, columns)
        return tensor.contiguous()


def _source_layers(source: EncoderConfig, target: EncoderConfig) -> list[int]:
    """Return for each target layer the nearest evenly spaced source layer of the same type.

    Layer 0 maps only to layer 0, as only it has no attention norm.
    """
    spacing = (source.num_hidden_layers - 1) / max(1, target.num_hidden_layers - 1)
    chosen = [0]
    for layer in range(1, target.num_hidden_layers):
        candidates = [
            index
            for index in range(1, source.num_hidden_layers)
            if source.attends_globally(index) == target.attends_globally(layer)
        ]
        chosen.append(min(candidates, key=lambda index: (abs(index - layer * spacing), index)))
    return chosen
