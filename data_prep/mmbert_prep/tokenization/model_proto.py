"""Parser of SentencePiece model protobufs."""

from __future__ import annotations

from typing import Any

from sentencepiece import sentencepiece_model_pb2

# Types of pieces.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
BPE = 2  # type of model


def parse_model(model: bytes) -> Any:
    """Parse the bytes of a .model file into a ModelProto. Raises ValueError if invalid."""
    message: Any = sentencepiece_model_pb2
    try:
        proto = message.ModelProto.FromString(model)
    except Exception as error:  # DecodeError is a ValueError only in some versions of protobuf
        raise ValueError(f"not a SentencePiece model: {error}") from error
    if not proto.pieces:
        raise ValueError("not a SentencePiece model: it has no pieces")
    return proto
