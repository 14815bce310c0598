"""Conversion of a SentencePiece model to a Hugging Face fast tokenizer with the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.errors import TokenizerError
from mmbert.files import atomic_write
from mmbert_prep.tokenization.model_proto import BPE, NORMAL, USER_DEFINED, parse_model
from mmbert_prep.tokenization.text_splitter import SPACE

MAX_INPUT_TOKENS = 8192


def convert(model: bytes, special_ids: SpecialIds) -> Tokenizer:
    """Build the fast tokenizer. Raises TokenizerError if the model is not BPE."""
    proto = parse_model(model)
    pieces = proto.pieces
    kind = proto.trainer_spec.model_type
    if kind != BPE:
        # The fast unigram model encodes control pieces as text and counts unknowns differently.
        raise TokenizerError(
            "only BPE models of SentencePiece can be converted with the same ids",
            remedy="give the Hugging Face tokenizer folder (with tokenizer.json) instead",
        )
    vocabulary = {piece.piece: id_ for id_, piece in enumerate(pieces)}
    inner = models.BPE(
        vocab=vocabulary,
        merges=_merges(pieces, vocabulary),
        unk_token=pieces[special_ids.unknown].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
    tokenizer = Tokenizer(inner)
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    # Added tokens, because BPE would find user-defined pieces only through merges.
    tokenizer.add_tokens(
        [
            AddedToken(piece.piece, normalized=SPACE in piece.piece, special=False)
            for piece in pieces
            if piece.type == USER_DEFINED
        ]
    )
    names = {name: pieces[id_].piece for name, id_ in special_ids.model_dump().items()}
    tokenizer.add_special_tokens(
        [
            # The space before a mask is part of the word to be predicted.
            AddedToken(piece, special=True, normalized=False, lstrip=name == "mask")
            for name, piece in names.items()
        ]
    )
    begin, end = names["begin"], names["end"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(begin, special_ids.begin), (end, special_ids.end)],
    )
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges(pieces: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return all merges of two pieces into a third, in the priority order of BPE."""
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for piece in pieces:
        text = piece.piece
        if piece.type != NORMAL or len(text) < 2:
            continue
        for split in range(1, len(text)):
            left, right = vocabulary.get(text[:split]), vocabulary.get(text[split:])
            if left is not None and right is not None:
                ranked.append((-piece.score, left, right, (text[:split], text[split:])))
    ranked.sort()
    return [pair for *_, pair in ranked]


def _normalizer(spec: Any) -> Any:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps) if len(steps) > 1 else steps[0]


def write_huggingface_files(folder: Path, tokenizer: Tokenizer, special_ids: SpecialIds) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    names = {name: tokenizer.id_to_token(id_) for name, id_ in special_ids.model_dump().items()}
    roles = {
        "bos_token": names["begin"],
        "eos_token": names["end"],
        "cls_token": names["begin"],
        "sep_token": names["end"],
        "pad_token": names["pad"],
        "unk_token": names["unknown"],
    }
    mask = {
        "content": names["mask"],
        "lstrip": True,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }
    config = {
        **roles,
        "mask_token": {"__type": "AddedToken", **mask, "special": True},
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_INPUT_TOKENS,
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(config, indent=1, ensure_ascii=False) + "\n",
        "special_tokens_map.json": json.dumps(
            {**roles, "mask_token": mask}, indent=1, ensure_ascii=False
        )
        + "\n",
    }
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(content.encode())
