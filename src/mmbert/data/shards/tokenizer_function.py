"""What a Hugging Face tokenizer does with text, regardless of how its files were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.data.shards.tokenizer_state import without_state
from mmbert.errors import TokenizerError
from mmbert.files import parse_json

PROBES = (
    "The old town by the river", "  two  spaces\n\nand lines\t",
    "CamelCase, l'eau; 3.14 1234567890",
    "café cafe\u0301 straße İstanbul ﬁ", "ελληνικά русский עברית العربية हिन्दी தமிழ்",
    "你好，日本語 한국어 ภาษาไทย አማርኛ", "🙂👩‍👩‍👧‍👦 \u200b\u00a0 ▁ word",
    "aaaaaaaaaaaaaaaaaaaaaaaa",
)  # fmt: skip
"""Texts on which a difference between tokenizers shows: case, spaces, digits, marks, scripts."""


def different_part(
    first: Path, first_ids: SpecialIds, second: Path, second_ids: SpecialIds
) -> str | None:
    """Compare the tokenizers in two folders; return the name of the first part that differs.

    None if both give the same ids to every text. Order and layout of the file, the decoder, saved
    padding, truncation and dropout, and names of special tokens do not count.

    Args:
        first_ids, second_ids: their special ids by role.

    Raises:
        TokenizerError: a tokenizer.json is missing or cannot be read.
    """
    if first_ids != second_ids:
        return "special tokens"
    ours, theirs = _content(first), _content(second)
    if ours == theirs:
        return None
    parts = _parts(first, ours, first_ids), _parts(second, theirs, second_ids)
    return next((name for name, part in parts[0].items() if part != parts[1][name]), None)


def different_ids(first: Path, second: Path) -> str | None:
    """Return a text to which the tokenizers in two folders give other ids; None if none is found.

    For tokenizers whose files say the same in other words, which `different_part` takes for
    different: those of a SentencePiece model, converted by two programs.

    Raises:
        TokenizerError: a tokenizer.json is missing or cannot be read.
    """
    if _content(first) == _content(second):
        return None
    found = []
    for folder in (first, second):
        try:
            definition = without_state(parse_json(_content(folder)))
            tokenizer = Tokenizer.from_str(json.dumps(definition))
        except TokenizerError:
            raise
        except Exception as error:  # the library raises nothing more precise
            raise TokenizerError(
                f"{folder / 'tokenizer.json'} cannot be read: {error}",
                remedy="save the tokenizer again",
            ) from error
        found.append([tokenizer.encode(text, add_special_tokens=False).ids for text in PROBES])
    pairs = zip(PROBES, *found, strict=True)
    return next((text for text, one, other in pairs if one != other), None)


def _content(folder: Path) -> str:
    path = folder / "tokenizer.json"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(
            f"{path} cannot be read: {error}", remedy="give a folder with a fast tokenizer"
        ) from error


def _parts(folder: Path, content: str, special_ids: SpecialIds) -> dict[str, Any]:
    """Return the parts that decide the ids of a text, in the spelling of this library's version."""
    try:
        tokenizer = Tokenizer.from_str(content)
        definition = without_state(parse_json(tokenizer.to_str()))
    except Exception as error:  # the library raises nothing more precise
        raise TokenizerError(
            f"{folder / 'tokenizer.json'} cannot be read: {error}",
            remedy="save the tokenizer again",
        ) from error
    model, reserved = definition["model"], set(special_ids.all())
    # Text never produces special tokens, so that their spelling and flags do not matter.
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    kept = {token: number for token, number in vocabulary.items() if number not in reserved}
    if isinstance(model.get("vocab"), dict):
        del model["vocab"]
    return {
        "vocabulary": kept,
        "added tokens": sorted(
            (token for token in definition["added_tokens"] if token["id"] not in reserved),
            key=lambda token: int(token["id"]),
        ),
        "normalizer": _unwrapped(definition["normalizer"]),
        "pre-tokenizer": _unwrapped(definition["pre_tokenizer"]),
        "merges": model.pop("merges", None),
        "model": model,
    }


def _unwrapped(part: Any) -> Any:
    """Return the only member of a sequence of one, and None for an empty sequence."""
    if isinstance(part, dict) and part.get("type") == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        members = [_unwrapped(member) for member in part[key]]
        members = [member for member in members if member is not None]
        return members[0] if len(members) == 1 else (members or None)
    return part
