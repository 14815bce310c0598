"""Encoders: batches of texts to token ids. Text never produces a reserved id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece
from tokenizers import Tokenizer

from mmbert.data.shards.tokenizer_description import (
    TokenizerDescription,
    read_tokenizer_description,
)
from mmbert.data.shards.tokenizer_state import without_state
from mmbert.errors import TokenizerError
from mmbert_prep.tokenization.model_proto import BPE, parse_model
from mmbert_prep.tokenization.text_splitter import (
    LONG_CHARACTERS,
    SPACE,
    TextSplitter,
    encode_in_chunks,
)

# Characters per chunk: the fastest for SentencePiece, and for long texts to bound memory.
_CHUNK_CHARACTERS, _LONG_CHUNK_CHARACTERS = 500, 60_000


class Encoder(Protocol):
    """Encodes texts into ids without special tokens."""

    description: TokenizerDescription
    byte_ids: np.ndarray
    """bool[vocabulary]: mask of byte-fallback ids."""

    byte_lengths: np.ndarray
    """int64[vocabulary]: UTF-8 bytes of text per id."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode ids to text."""


class SentencePieceEncoder:
    """SentencePiece encoder. Reserved pieces are control pieces, which text cannot produce."""

    def __init__(self, model: bytes, description: TokenizerDescription) -> None:
        self.description = description
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        proto = parse_model(model)
        self.byte_ids = np.array([self._processor.is_byte(id_) for id_ in range(len(proto.pieces))])
        pieces = [piece.piece for piece in proto.pieces]
        self.byte_lengths = _byte_lengths(pieces, self.byte_ids)
        # Chunks can start anywhere only if the model does not modify the beginning of a text.
        self._plain = proto.normalizer_spec.name == "identity" and not (
            proto.normalizer_spec.add_dummy_prefix or proto.normalizer_spec.remove_extra_whitespaces
        )
        # In unigram models, float32 rounding decides between equal segmentations: ids may differ.
        self._by_merges = proto.trainer_spec.model_type == BPE
        self._splitter = TextSplitter(pieces, joins_unknown=not self.byte_ids.any())

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32."""
        return encode_in_chunks(texts, self._split, self._encode)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        # One thread, as workers run in parallel.
        return self._processor.encode(texts, return_type="numpy", num_threads=1)

    def _split(self, text: str) -> list[str]:
        if self._plain and self._by_merges:
            return self._splitter.split(text, _CHUNK_CHARACTERS)
        return self.split_long(text)

    def split_long(self, text: str) -> list[str]:
        """Split a long text into chunks that can be encoded separately."""
        if len(text) <= LONG_CHARACTERS:
            return [text]
        return self._splitter.split(text, _LONG_CHUNK_CHARACTERS, at_spaces_only=not self._plain)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode ids to text."""
        return self._processor.decode([int(id_) for id_ in ids])


class HuggingFaceEncoder:
    """Encoder of a Hugging Face fast tokenizer. Text cannot produce its reserved tokens."""

    def __init__(self, definition: bytes, description: TokenizerDescription) -> None:
        self.description = description
        data = without_state(json.loads(definition))
        reserved = set(description.special_ids.all())
        # Text matches only added tokens, so omit the reserved ones; the vocabulary keeps their ids.
        data["added_tokens"] = [
            token for token in data.get("added_tokens", []) if token["id"] not in reserved
        ]
        data["post_processor"] = None
        self._tokenizer = Tokenizer.from_str(json.dumps(data))
        self._tokenizer.encode_special_tokens = True
        self._whole = Tokenizer.from_str(definition.decode())
        vocabulary = self._whole.get_vocab(with_added_tokens=True)
        self.byte_ids = np.zeros(description.vocabulary_size, dtype=bool)
        if data["model"].get("byte_fallback"):
            for byte in range(256):
                if (id_ := vocabulary.get(f"<0x{byte:02X}>")) is not None:
                    self.byte_ids[id_] = True
        names = [self._whole.id_to_token(id_) or "" for id_ in range(description.vocabulary_size)]
        if "ByteLevel" in json.dumps(data.get("decoder")):  # one character per byte
            self.byte_lengths = np.array([len(name) for name in names], dtype=np.int64)
        else:
            self.byte_lengths = _byte_lengths(names, self.byte_ids)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32."""
        return encode_in_chunks(texts, self.split, self._encode)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def split(self, text: str) -> list[str]:
        """Split a long text at positions that are certain not to change its tokens."""
        chunks, start = [], 0
        # All pre-tokenizers split at the end of a line that is not followed by whitespace.
        while len(text) - start > LONG_CHARACTERS:
            position = text.find("\n", start + LONG_CHARACTERS // 2)
            while 0 <= position < len(text) - 1 and text[position + 1].isspace():
                position = text.find("\n", position + 1)
            if position < 0 or position >= len(text) - 1:
                break
            chunks.append(text[start : position + 1])
            start = position + 1
        return [*chunks, text[start:]]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode ids to text."""
        return self._whole.decode([int(id_) for id_ in ids], skip_special_tokens=False)


def _byte_lengths(pieces: Sequence[str], byte_ids: np.ndarray) -> np.ndarray:
    lengths = [len(piece.replace(SPACE, " ").encode()) for piece in pieces]
    return np.where(byte_ids, 1, np.array(lengths, dtype=np.int64))


def open_encoder(folder: Path) -> Encoder:
    """Open the encoder of a tokenizer folder. Raises TokenizerError if its files are invalid."""
    description = read_tokenizer_description(folder)
    name = "tokenizer.model" if description.kind == "sentencepiece" else "tokenizer.json"
    make: Any = SentencePieceEncoder if description.kind == "sentencepiece" else HuggingFaceEncoder
    try:
        data = (folder / name).read_bytes()
        return make(data, description)
    except (OSError, ValueError, RuntimeError) as error:
        raise TokenizerError(
            f"{folder / name} cannot be used: {error}",
            remedy="restore the folder from a copy, or use another output folder",
        ) from error
