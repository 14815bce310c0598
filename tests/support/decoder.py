"""A decoder of the encoder's architecture in plain PyTorch, one document at a time."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mmbert.model.config import EncoderConfig
from mmbert.recipe import RotaryBases


def decoder_logits(
    weights: Mapping[str, Tensor], config: EncoderConfig, bases: RotaryBases, ids: Tensor
) -> Tensor:
    """Compute a document's logits [L, vocabulary] with dense causal masks, in the weights' dtype.

    Written from the architecture's description alone: pre-norm layers, rotary queries and keys,
    gated MLPs, tied decoder.
    """
    d, heads = config.hidden_size, config.num_attention_heads
    length, size = len(ids), d // heads
    place = torch.arange(length)

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (d,), weights[f"{name}.weight"], eps=config.norm_eps)

    def rotated(x: Tensor, base: float) -> Tensor:
        """[L, heads, size]: channel i turns with channel i + size / 2."""
        frequencies = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = (place[:, None] * frequencies)[:, None, :]
        one, other = x.chunk(2, dim=-1)
        turned = (
            one * angles.cos() - other * angles.sin(),
            other * angles.cos() + one * angles.sin(),
        )
        return torch.cat(turned, dim=-1)

    table = weights["model.embeddings.tok_embeddings.weight"]
    hidden = normed(table[ids], "model.embeddings.norm")
    for index in range(config.num_hidden_layers):
        name = f"model.layers.{index}"
        x = normed(hidden, f"{name}.attn_norm") if index else hidden
        parts = (x @ weights[f"{name}.attn.Wqkv.weight"].T).view(length, 3, heads, size).unbind(1)
        is_global = index % config.global_attention_every == 0
        base = bases.global_ if is_global else bases.local_
        query, key = rotated(parts[0], base), rotated(parts[1], base)
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        if not is_global:
            seen &= place[:, None] - place[None, :] <= config.local_window // 2
        scores = torch.einsum("qhc,khc->hqk", query, key) / size**0.5
        mixed = torch.einsum("hqk,khc->qhc", scores.where(seen, -torch.inf).softmax(-1), parts[2])
        hidden = hidden + mixed.reshape(length, d) @ weights[f"{name}.attn.Wo.weight"].T
        gate, up = (normed(hidden, f"{name}.mlp_norm") @ weights[f"{name}.mlp.Wi.weight"].T).chunk(
            2, dim=-1
        )
        hidden = hidden + (functional.gelu(gate) * up) @ weights[f"{name}.mlp.Wo.weight"].T
    x = normed(hidden, "model.final_norm") @ weights["head.dense.weight"].T
    return normed(functional.gelu(x), "head.norm") @ table.T + weights["decoder.bias"]
