"""Decontamination: detection of word n-grams shared with evaluation files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from mmbert.errors import EvaluationDataError
from mmbert_prep.readers.formats.json_values import json_values
from mmbert_prep.readers.streams import (
    COMPRESSIONS,
    DamagedFileError,
    OversizedLine,
    read_blocks,
    split_lines,
)
from mmbert_prep.readers.text_blocks import utf8_blocks

# A word. In scripts without spaces each character is a word, so that an n-gram of Chinese,
# Japanese, Thai, Lao, Khmer, Burmese or Tibetan matches at any position.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
    r"\uf900-\ufaff\U00020000-\U0003ffff]|[^\W_]+"
)
_UNSPACED_SCRIPT = re.compile(r"[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
# Characters are less specific than words: character n-grams are this many times longer.
_CHARACTERS_PER_WORD = 2
_MAX_LINE_BYTES = 64_000_000
_REMEDY = (
    "give .txt, .tsv, .jsonl or .json files (plain, .gz, .zst, .bz2 or .xz) to --decontaminate"
)


def _words(text: str) -> list[str]:
    # Lowercase letters and digits only, so that punctuation and layout do not hide a copy.
    return _WORD.findall(text.lower())


class Decontaminator:
    """Detects n-grams of evaluation texts: lines of text files, strings of JSON files."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self._size = size
        self._known: set[int] = set()
        for path in paths:
            texts = 0
            for text in _evaluation_texts(path):
                self._known.update(self._ngrams(_words(text)))
                texts += 1
            if not texts:
                raise EvaluationDataError(
                    f"evaluation file {path} contains no text",
                    remedy=_REMEDY,
                )

    def is_contaminated(self, text: str) -> bool:
        """Return whether the text shares an n-gram with an evaluation text."""
        known = self._known
        return any(ngram in known for ngram in self._ngrams(_words(text)))

    def _ngrams(self, words: list[str]) -> Iterator[int]:
        size = self._size
        if words and sum(bool(_UNSPACED_SCRIPT.match(word)) for word in words) * 2 > len(words):
            size *= _CHARACTERS_PER_WORD
        digest = xxhash.xxh3_64_intdigest
        for start in range(len(words) - size + 1):
            yield digest(" ".join(words[start : start + size]).encode())


def _evaluation_texts(path: Path) -> Iterator[str]:
    name = path.name.lower()
    compression = COMPRESSIONS.get(path.suffix.lower(), "none")
    structured = ".json" in name
    try:
        size = path.stat().st_size
        blocks = utf8_blocks(read_blocks(str(path), compression, 0, size))
        if structured:
            for value in json_values(blocks, _MAX_LINE_BYTES):
                yield from _strings(value)
            return
        for line in split_lines(blocks, _MAX_LINE_BYTES):
            if not isinstance(line, OversizedLine):
                yield line.decode()
    except (OSError, DamagedFileError, ValueError) as error:
        raise EvaluationDataError(
            f"evaluation file {path} cannot be read: {error}",
            remedy=_REMEDY,
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        value.encode()  # raises for invalid UTF-8, of which words would be missing
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
