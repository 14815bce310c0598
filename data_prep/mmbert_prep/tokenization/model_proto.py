"""SentencePiece's model file as an object whose pieces can be read and changed."""

from __future__ import annotations

from typing import Any

from sentencepiece import sentencepiece_model_pb2

# Types of pieces in the model file.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
BPE = 2  # the type of models


def parse_model(model: bytes) -> Any:
    """The ModelProto in a .model file. Raises ValueError when it is none."""
    message: Any = sentencepiece_model_pb2
    try:
        proto = message.ModelProto.FromString(model)
    except Exception as error:  # protobuf's DecodeError is no ValueError in every version
        raise ValueError(f"no SentencePiece model: {error}") from error
    if not proto.pieces:
        raise ValueError("no SentencePiece model: it has no pieces")
    return proto
