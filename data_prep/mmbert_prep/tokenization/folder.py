"""Tokenizer folders (SHARDS/tokenizer), from a SentencePiece model or a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mmbert.data.shards.tokenizer_description import (
    DESCRIPTION_NAME,
    SpecialIds,
    TokenizerDescription,
    read_tokenizer_description,
    write_tokenizer_description,
)
from mmbert.data.shards.tokenizer_function import different_part
from mmbert.data.shards.tokenizer_state import saved_state, without_state
from mmbert.errors import TokenizerError
from mmbert.files import atomic_write, make_folder, sync_folder
from mmbert_prep.tokenization.adversarial import ADVERSARIAL_TEXTS
from mmbert_prep.tokenization.conversion import convert, write_huggingface_files
from mmbert_prep.tokenization.encoders import Encoder, HuggingFaceEncoder, SentencePieceEncoder
from mmbert_prep.tokenization.model_proto import CONTROL, UNKNOWN, parse_model

_COPIED_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_sentencepiece_folder(
    folder: Path, model: bytes, samples: Iterable[tuple[str, str]]
) -> TokenizerDescription:
    """Write the folder of a SentencePiece model, with an equivalent fast tokenizer.

    `samples`: (language, text) pairs on which both must give the same ids, in addition to the
    adversarial texts. The folder is created atomically. Raises TokenizerError if the model is
    invalid, is not BPE or lacks a reserved piece, or if ids differ.
    """
    try:
        proto = parse_model(model)
    except ValueError as error:
        raise TokenizerError(
            f"invalid tokenizer: {error}",
            remedy="give a SentencePiece .model file or a Hugging Face tokenizer folder",
        ) from error
    special_ids = _sentencepiece_ids(proto)
    for id_ in special_ids.all():
        # A user-defined <mask>, as in Gemma, would match a literal "<mask>" in text; a control
        # piece has the same id and never matches.
        if proto.pieces[id_].type not in (CONTROL, UNKNOWN):
            proto.pieces[id_].type = CONTROL
    model = proto.SerializeToString(deterministic=True)
    description = TokenizerDescription(
        kind="sentencepiece",
        vocabulary_size=len(proto.pieces),
        fingerprint=hashlib.sha256(model).hexdigest(),
        special_ids=special_ids,
    )
    converted = convert(model, special_ids)
    definition = converted.to_str().encode()
    check_identity(
        SentencePieceEncoder(model, description),
        HuggingFaceEncoder(definition, description),
        samples,
    )
    partial = _partial(folder)
    with atomic_write(partial / "tokenizer.model") as file:
        file.write(model)
    write_huggingface_files(partial, converted, special_ids)
    write_tokenizer_description(partial, description)
    os.replace(partial, folder)
    sync_folder(folder.parent)
    return description


def _sentencepiece_ids(proto: Any) -> SpecialIds:
    ids = {piece.piece: id_ for id_, piece in enumerate(proto.pieces)}
    wanted = {
        "pad": (proto.trainer_spec.pad_piece, "<pad>", "[PAD]"),
        "begin": (proto.trainer_spec.bos_piece, "<bos>", "<s>", "[CLS]"),
        "end": (proto.trainer_spec.eos_piece, "<eos>", "</s>", "[SEP]"),
        "unknown": (proto.trainer_spec.unk_piece, "<unk>", "[UNK]"),
        "mask": ("<mask>", "[MASK]"),
    }
    found: dict[str, int] = {}
    for role, names in wanted.items():
        known = [ids[name] for name in names if name in ids]
        if not known:
            raise TokenizerError(
                f"the SentencePiece model has no piece for '{role}' (none of {', '.join(names)})",
                remedy="use a model with pad, begin, end, unknown and mask pieces (Gemma's has "
                "them), or a Hugging Face tokenizer folder that defines these tokens",
            )
        found[role] = known[0]
    return SpecialIds(**found)


def write_huggingface_folder(folder: Path, source: Path) -> TokenizerDescription:
    """Write the folder of a Hugging Face fast tokenizer, with copies of its files."""
    definition, tokenizer, config = _read_fast_tokenizer(source)
    special_ids = _huggingface_ids(source, tokenizer, config)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    description = TokenizerDescription(
        kind="huggingface",
        vocabulary_size=max(vocabulary.values()) + 1,
        fingerprint=hashlib.sha256(definition).hexdigest(),
        special_ids=special_ids,
    )
    HuggingFaceEncoder(definition, description).encode(list(ADVERSARIAL_TEXTS))
    partial = _partial(folder)
    for name in _COPIED_FILES:
        if (source / name).is_file():
            with atomic_write(partial / name) as file:
                file.write((source / name).read_bytes())
    write_tokenizer_description(partial, description)
    os.replace(partial, folder)
    sync_folder(folder.parent)
    return description


def saved_settings(source: Path) -> list[str]:
    """Return which of padding, truncation and dropout a tokenizer has saved; none is used."""
    return saved_state(json.loads((source / "tokenizer.json").read_bytes()))


def _read_fast_tokenizer(source: Path) -> tuple[bytes, Tokenizer, dict[str, Any]]:
    """Return tokenizer.json, the tokenizer without its saved state, and the configuration."""
    remedy = "give a folder that AutoTokenizer loads as a fast tokenizer, with tokenizer.json"
    try:
        definition = (source / "tokenizer.json").read_bytes()
        tokenizer = Tokenizer.from_str(json.dumps(without_state(json.loads(definition))))
        config = json.loads((source / "tokenizer_config.json").read_bytes())
    except Exception as error:  # the tokenizers library raises bare Exception
        raise TokenizerError(f"{source} is not a fast tokenizer: {error}", remedy=remedy) from error
    return definition, tokenizer, config


def _huggingface_ids(source: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> SpecialIds:
    names = dict(config)
    map_path = source / "special_tokens_map.json"
    if map_path.is_file():
        names = {**json.loads(map_path.read_bytes()), **names}
    framed, plain = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    found: dict[str, int] = {}
    if len(framed) >= 2 and framed[1:-1] == plain:  # the tokens it adds, regardless of names
        found = {"begin": framed[0], "end": framed[-1]}
    roles = {
        "pad": ("pad_token",),
        "begin": ("bos_token", "cls_token"),
        "end": ("eos_token", "sep_token"),
        "unknown": ("unk_token", "pad_token"),  # byte-level vocabularies have no unknown token
        "mask": ("mask_token",),
    }
    for role, keys in roles.items():
        if role in found:
            continue
        for key in keys:
            value = names.get(key)
            content = value.get("content") if isinstance(value, dict) else value
            id_ = tokenizer.token_to_id(content) if isinstance(content, str) else None
            if id_ is not None:
                found[role] = id_
                break
        else:
            raise TokenizerError(
                f"the tokenizer in {source} defines no {' or '.join(keys)}",
                remedy="add it to tokenizer_config.json (the token must be in the vocabulary)",
            )
    return SpecialIds(**found)


def _partial(folder: Path) -> Path:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    return partial


def check_identity(
    first: Encoder, second: Encoder, samples: Iterable[tuple[str, str]], batch: int = 256
) -> dict[str, int]:
    """Compare two encoders on all samples and the adversarial texts.

    Return the number of texts per language. Raises TokenizerError with the language and text of the
    first difference or reserved id.
    """
    reserved = np.array(first.description.special_ids.all())
    unknown = first.description.special_ids.unknown
    reserved = reserved[reserved != unknown]  # models without byte fallback produce it
    compared: dict[str, int] = {}
    pending: list[tuple[str, str]] = [("adversarial", text) for text in ADVERSARIAL_TEXTS]

    def compare() -> None:
        texts = [text for _, text in pending]
        pairs = zip(pending, first.encode(texts), second.encode(texts), strict=True)
        for (language, text), ours, theirs in pairs:
            if not np.array_equal(ours, theirs) or np.isin(ours, reserved).any():
                raise TokenizerError(
                    f"the SentencePiece model and its fast tokenizer differ on {language}: "
                    f"{text[:200]!r} gives {ours[:20].tolist()} and {theirs[:20].tolist()}",
                    remedy="this kind of model cannot be exported faithfully: give its "
                    "Hugging Face tokenizer folder instead",
                )
            compared[language] = compared.get(language, 0) + 1
        pending.clear()

    for sample in samples:
        pending.append(sample)
        if len(pending) >= batch:
            compare()
    compare()
    return compared


def is_huggingface_folder(given: Path) -> bool:
    """Return whether to use the tokenizer `given` as a Hugging Face tokenizer.

    True for folders with a tokenizer.json, even beside a SentencePiece model. False for a folder
    that this package wrote from a SentencePiece model: the model is the original and several times
    as fast.
    """
    if not given.is_dir():
        return False
    if is_complete(given):
        return read_tokenizer_description(given).kind == "huggingface"
    return (given / "tokenizer.json").is_file() or not (given / "tokenizer.model").is_file()


def is_complete(folder: Path) -> bool:
    """Return whether `folder` is a complete tokenizer folder."""
    return (folder / DESCRIPTION_NAME).exists()


def _same_fast_tokenizer(given: Path, folder: Path, description: TokenizerDescription) -> bool:
    path = given / "tokenizer.json"
    if not path.is_file():
        return False
    if hashlib.sha256(path.read_bytes()).hexdigest() == description.fingerprint:
        return True
    try:
        _, tokenizer, config = _read_fast_tokenizer(given)
        special_ids = _huggingface_ids(given, tokenizer, config)
        return different_part(given, special_ids, folder, description.special_ids) is None
    except TokenizerError:
        return False


def same_tokenizer(given: Path, folder: Path) -> bool:
    """Return whether `folder` was made from the tokenizer `given`, or does the same."""
    description = read_tokenizer_description(folder)
    path = given / "tokenizer.model" if given.is_dir() else given
    if description.kind == "huggingface" or not path.is_file():
        return _same_fast_tokenizer(given, folder, description)
    ours = parse_model((folder / "tokenizer.model").read_bytes())
    try:
        theirs = parse_model(path.read_bytes())
    except ValueError:
        return False
    # Only the type of a reserved piece may differ.
    return [(p.piece, p.score) for p in ours.pieces] == [(p.piece, p.score) for p in theirs.pieces]
