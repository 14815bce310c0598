"""A smaller model out of a larger one by strided sampling, as mmBERT's small began from base.

Every width keeps evenly spaced entries: hidden channels, heads (whole, so that rotary pairs stay
together), inner channels of the gated unit (the same for its two halves), and layers.
"""

import torch

from mmbert.errors import UserError
from mmbert.hub.weights import HuggingFaceWeights, parameter_shapes
from mmbert.model.config import EncoderConfig


def strided_indices(source: int, target: int) -> torch.Tensor:
    """`target` evenly spaced indices of 0 … `source` − 1, from 0; int64."""
    return torch.arange(target) * source // target


class StridedSampling:
    """Cuts tensors of a model of `source` sizes down to `target` sizes.

    UserError where a size of the target exceeds the source's, the head sizes differ, or the
    pattern of global and local layers does.
    """

    def __init__(self, source: EncoderConfig, target: EncoderConfig) -> None:
        for key in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        ):  # fmt: skip
            larger, smaller = getattr(source, key), getattr(target, key)
            if smaller > larger:
                raise UserError(
                    f"{key} {smaller} is larger than the source model's {larger}",
                    remedy="strided sampling only makes models smaller; choose smaller sizes",
                )
        for key in ("head_size", "global_attention_every", "local_window", "vocab_size"):
            theirs, ours = getattr(source, key), getattr(target, key)
            if theirs != ours:
                raise UserError(
                    f"{key} is {ours}, the source model's is {theirs}",
                    remedy="only widths, heads and layers may shrink; keep the head size (64 in"
                    " the presets), the pattern of global layers and the vocabulary",
                )
        self.shapes = parameter_shapes(target)
        self._layers = _source_layers(source, target)
        hidden = strided_indices(source.hidden_size, target.hidden_size)
        heads = strided_indices(source.num_attention_heads, target.num_attention_heads)
        channels = (heads[:, None] * source.head_size + torch.arange(source.head_size)).flatten()
        inner = strided_indices(source.intermediate_size, target.intermediate_size)
        fused = torch.cat([channels + part * source.hidden_size for part in range(3)])
        halves = torch.cat([inner, inner + source.intermediate_size])
        # By the last two parts of a parameter's name: rows and columns that stay.
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
        """The parameter of the larger model that `name` of the smaller one is cut from."""
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            parts[2] = str(self._layers[int(parts[2])])
        return ".".join(parts)

    def read(self, weights: HuggingFaceWeights, name: str) -> torch.Tensor:
        """The smaller model's parameter `name`, float32."""
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
    """For each layer of the target, the nearest evenly spaced source layer of its own kind.

    Layer 0 alone has no attention norm, so that it only ever serves as layer 0.
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
