"""Puts the packed encoder into a live Hugging Face model, and takes it out."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from mmbert.errors import ModelError
from mmbert.hub.live.configuration import read_live_configuration
from mmbert.hub.live.forward import PackedEncoder
from mmbert.hub.live.heads import PackedMaskedLM, PackedQuestionAnswering, PackedTokenClassification
from mmbert.hub.live.models import (
    MASKED_LM,
    QUESTIONS,
    SEQUENCE,
    TOKENS,
    QueryExpansion,
    encoder_of,
    expansion_in,
    kind_of,
    models_in,
)
from mmbert.hub.live.twin import Twins
from mmbert.hub.live.validation import validate_packed

Model = TypeVar("Model")

_HEADS = {
    MASKED_LM: PackedMaskedLM,
    TOKENS: PackedTokenClassification,
    QUESTIONS: PackedQuestionAnswering,
}


def pack(model: Model, *, validate: Any = None) -> Model:
    """Put the packed encoder into `model`; see `mmbert.pack`."""
    found = models_in(model)
    for live in found:
        _refuse_packed(live)
    try:
        for live in found:
            _pack(live, expansion_in(model))
        if validate is not None:
            for live in found:
                validate_packed(live, _features(model, validate))
    except BaseException:
        for live in found:
            _unpack(live)
        raise
    return model


def unpack(model: Model) -> Model:
    """Take the packed encoder out of `model`; see `mmbert.unpack`."""
    found = models_in(model)
    for live in found:
        _refuse_wrapped(live)
    if not any(_packed_parts(live) for live in found):
        raise ModelError(f"{type(model).__name__} is not packed", remedy="leave out mmbert.unpack")
    for live in found:
        _unpack(live)
    return model


def _pack(live: Any, expansion: QueryExpansion | None) -> None:
    kind, encoder = kind_of(live), encoder_of(live)
    twins = Twins(read_live_configuration(live, has_our_head=kind == MASKED_LM))
    reads_first = kind == SEQUENCE and live.config.classifier_pooling == "cls"
    packed = PackedEncoder(encoder, twins, first_position_is_read=reads_first, expansion=expansion)
    head = _HEADS[kind](live, packed) if kind in _HEADS else None
    (head or packed).refuse()
    twins.check(encoder)
    encoder.forward = packed
    if head is not None:
        live.forward = head


def _refuse_packed(live: Any) -> None:
    name = type(live).__name__
    if _packed_parts(live):
        raise ModelError(
            f"{name} is packed already",
            remedy="pack a model once; mmbert.unpack(model) takes it out",
        )
    for module in {live, encoder_of(live)}:
        if "forward" in module.__dict__:
            raise ModelError(
                f"{type(module).__name__} has a `forward` of its own, put there by"
                " accelerate, a trainer or a patch",
                remedy="pack the model first, then prepare it (Trainer, accelerator.prepare)",
            )


def _refuse_wrapped(live: Any) -> None:
    """Raise ModelError if something else has wrapped the packed forward."""
    forward = getattr(live.__dict__.get("forward"), "__wrapped__", None)
    while forward is not None:
        if getattr(forward, "is_packed_forward", False):
            raise ModelError(
                f"the packed `forward` of {type(live).__name__} was wrapped since, as accelerate"
                " does for mixed precision",
                remedy="take the wrapper out first:"
                " accelerator.unwrap_model(model, keep_fp32_wrapper=False)",
            )
        forward = getattr(forward, "__wrapped__", None)


def _packed_parts(live: Any) -> list[nn.Module]:
    return [
        module
        for module in (live, encoder_of(live))
        if getattr(module.__dict__.get("forward"), "is_packed_forward", False)
    ]


def _unpack(live: Any) -> None:
    for module in {id(part): part for part in _packed_parts(live)}.values():
        del module.forward


def _features(model: Any, batch: Any) -> Mapping[str, Any]:
    """Return the batch as the Hugging Face model gets it; texts are tokenized by `model`."""
    if isinstance(batch, Mapping):
        return batch
    tokenize = getattr(model, "preprocess", None) or getattr(model, "tokenize", None)
    if tokenize is None or not isinstance(batch, list):
        raise ModelError(
            f"validate is a {type(batch).__name__}",
            remedy="give a batch as the model takes it, a dictionary of tensors; or, to a"
            " SentenceTransformer or CrossEncoder, a list of texts or pairs",
        )
    features: Mapping[str, Any] = tokenize(batch)
    return features
