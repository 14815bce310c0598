"""Our encoder and head without weights of their own, pointed at the live ones for every call."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.errors import ModelError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.live.padding import Padding
from mmbert.hub.live.refusals import refuse_weight
from mmbert.model.modernbert import Encoder, PredictionHead
from mmbert.model.packed_batch import PackedSequenceInfo
from mmbert.parallel.layers import TensorParallel
from mmbert.parallel.process_grid import TensorGroup
from mmbert_kernels import linear_cross_entropy

EMBEDDING = "embeddings.tok_embeddings"
_SINGLE = TensorParallel(TensorGroup.single(), sequence=False)
_PLAIN_TYPES = (nn.Linear, nn.LayerNorm, nn.Embedding)


class Twins:
    """Encoders on the meta device, of which each call borrows one.

    A borrowed twin belongs to its call alone, so that threads may share a model. One that
    recomputes its layers in the backward pass is needed until then, and is not lent again.
    """

    def __init__(self, model: HuggingFaceModel) -> None:
        self.model = model
        first = self._build()
        self._shapes = [tuple(module.weight.shape) for _, module in _weighted(first)]
        self._idle = [first]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_idle": []}  # a copy builds its own

    def check(self, live: Any) -> None:
        """Raise ModelError unless a ModernBertModel's weights are what is expected."""
        self._point_at(live, self._build(), None)

    def encode(
        self,
        live: Any,
        tokens: Tensor,
        padding: Padding,
        *,
        recompute: bool,
        states: list[Tensor] | None,
    ) -> Tensor:
        """Compute the normed last hidden states [T, d] with the weights of `live`.

        Args:
            live: transformers' ModernBertModel.
            tokens: ids int64 [T], or embeddings [T, d].
            padding: the texts of the row.
            recompute: whether the backward pass computes the layers again.
            states: receives what `Encoder.encode` hands out.
        """
        info = PackedSequenceInfo(
            cu_seqlens=padding.cu_seqlens,
            max_seqlen=padding.max_seqlen,
            rotary_bases=self.model.rotary_bases,
        )
        lends = self._idle and not recompute
        twin = self._idle.pop() if lends else self._build()
        twin.recompute = recompute
        dtype = _autocast_dtype(tokens.device)
        try:
            with torch.autocast(tokens.device.type, enabled=False):
                self._point_at(live, twin, dtype)
                if tokens.is_floating_point():
                    hidden = twin.embeddings.norm.norm(tokens)
                else:
                    hidden = twin.embeddings(tokens)
                return twin.encode(hidden, info, states=states)
        finally:
            if not recompute:
                for _, own in _weighted(twin):
                    own._parameters["weight"] = None  # keep no weight alive, and no graph
                self._idle.append(twin)

    def _point_at(self, live: Any, twin: Encoder, dtype: torch.dtype | None) -> None:
        if len(live.layers) != len(twin.layers):
            raise ModelError(
                f"the model has {len(live.layers)} layers; it was packed with {len(twin.layers)}",
                remedy="mmbert.unpack(model), set model.config.num_hidden_layers (and layer_types),"
                " and mmbert.pack(model) again",
            )
        both = zip(_weighted(twin), _weighted(live), self._shapes, strict=True)
        for (name, own), (_, source), shape in both:
            _point(own, source, name, shape, dtype)

    def _build(self) -> Encoder:
        with torch.device("meta"):
            return Encoder(self.model.encoder, _SINGLE)


def masked_losses(model: HuggingFaceModel, live: Any, rows: Tensor, labels: Tensor) -> Tensor:
    """Compute the float32 losses [K] of rows [K, d] by our head, without keeping logits.

    `live` is transformers' ModernBertForMaskedLM; labels are int64 [K]. The upstream gradient must
    be the same for all losses, and they are differentiable once.
    """
    with torch.device("meta"):
        head = PredictionHead(model.encoder, _SINGLE)
    dtype, d = _autocast_dtype(rows.device), model.encoder.hidden_size
    with torch.autocast(rows.device.type, enabled=False):
        _point(head.dense, live.head.dense, "head.dense", (d, d), dtype)
        _point(head.norm, live.head.norm, "head.norm", (d,), dtype)
        decoder = live.decoder
        refuse_weight(decoder.weight, "decoder.weight", (decoder.out_features, d), any_rows=True)
        weight, bias = _cast(decoder.weight, dtype), _cast(decoder.bias, dtype)
        torch._assert_async((labels >= 0).all(), "a label below 0 that is not -100")
        return linear_cross_entropy(head(rows).to(weight.dtype), weight, bias, labels)


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype of products under the autocast that is in effect, or None without one."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def _cast(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a linear's weight as autocast would give it to the product."""
    return weight if dtype is None or weight.dtype == torch.float64 else weight.to(dtype)


def _point(
    own: Any, live: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype | None
) -> None:
    """Give our module `own` the weight of `live`, after a look at what that is."""
    if type(live) not in _PLAIN_TYPES or getattr(live, "bias", None) is not None:
        raise ModelError(
            f"{name} is a {type(live).__name__} with a bias or of another kind than it was",
            remedy="put the original layer back, or use the model unpacked",
        )
    weight = live.weight
    refuse_weight(weight, f"{name}.weight", shape, any_rows=name == EMBEDDING)
    if type(live) is nn.Linear:
        weight = _cast(weight, dtype)
    elif type(live) is nn.Embedding:
        weight = _without_gradient_of_padding(live, name)
    own._parameters["weight"] = weight


def _without_gradient_of_padding(embedding: nn.Embedding, name: str) -> Tensor:
    """Return the table; its look-ups give the row of `padding_idx` no gradient, as transformers'.

    Raises ModelError for options of nn.Embedding that our look-up does not have.
    """
    if embedding.max_norm is not None or embedding.sparse or embedding.scale_grad_by_freq:
        raise ModelError(
            f"{name} is an embedding with max_norm, sparse or scale_grad_by_freq",
            remedy="make it a plain embedding, or use the model unpacked",
        )
    weight, row = embedding.weight, embedding.padding_idx
    if row is None or not weight.requires_grad or not torch.is_grad_enabled():
        return weight
    table = weight.view_as(weight)
    # In place: the gradient is dense and new, the largest tensor of the step.
    table.register_hook(lambda gradient: gradient.index_fill_(0, gradient.new_tensor(
        [row], dtype=torch.int64), 0))  # fmt: skip
    return table


def _weighted(encoder: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules with a weight and their names; ours and transformers' have the same."""
    yield EMBEDDING, encoder.embeddings.tok_embeddings
    yield "embeddings.norm", encoder.embeddings.norm
    for index, layer in enumerate(encoder.layers):
        name = f"layers.{index}"
        if index:  # the first layer's attention has no norm
            yield f"{name}.attn_norm", layer.attn_norm
        yield f"{name}.attn.Wqkv", layer.attn.Wqkv
        yield f"{name}.attn.Wo", layer.attn.Wo
        yield f"{name}.mlp_norm", layer.mlp_norm
        yield f"{name}.mlp.Wi", layer.mlp.Wi
        yield f"{name}.mlp.Wo", layer.mlp.Wo
    yield "final_norm", encoder.final_norm
