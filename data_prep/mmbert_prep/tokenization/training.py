"""SentencePiece BPE training with byte fallback, for a tokenizer similar to Gemma's."""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import sentencepiece

from mmbert.errors import TextError
from mmbert_prep.settings import MIN_VOCABULARY_SIZE
from mmbert_prep.tokenization.model_proto import parse_model

PAD, END, BEGIN, UNKNOWN, MASK = range(5)
PIECES = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")

# Runs of whitespace that are single tokens, as in Gemma's vocabulary. SentencePiece writes a space
# as U+2581.
_LAYOUT = [
    *("\n" * count for count in range(1, 9)),
    *("\t" * count for count in range(1, 5)),
    *("\u2581" * count for count in range(2, 17)),
]
_MAX_LINE_CHARACTERS = 2_000  # SentencePiece skips lines above its byte limit
_MAX_ALPHABET_FRACTION = 0.4  # of the vocabulary; the rest is for longer pieces
_COVERAGE = 0.9999
_MIN_COVERAGE = 0.98  # the least that SentencePiece accepts
_FIXED_PIECES = len(PIECES) + 256 + len(_LAYOUT)
_SPACE = "\u2581"
_SKIPPED = "\u2585"  # SentencePiece's own mark of rare characters; it skips lines with it
# The tab is a boundary for SentencePiece.
_NEVER_IN_ALPHABET = (_SKIPPED, "\x00", "\t")


def train_bpe(texts: Iterable[str], vocabulary_size: int, threads: int) -> bytes:
    """Train a tokenizer and return its model file; equal texts give equal bytes.

    The rarest characters, beyond 99.99% of the text or 40% of the vocabulary, are left to byte
    fallback; the space never is. Raises TextError, with sizes that work, if the vocabulary is too
    small for bytes, layout and characters, or too large for the text.
    """
    text = _Text([line for text in texts for line in _lines(text)])
    if not text.lines:
        raise TextError("no text to train a tokenizer on", remedy="give more text or a --tokenizer")
    try:
        return _train(text, vocabulary_size, threads)
    except _TooSmallError:
        smallest = _smallest_vocabulary(text)
        raise TextError(
            f"a vocabulary of {vocabulary_size} is too small for this text: {_FIXED_PIECES} pieces "
            "are for bytes, layout and control, and characters may be 40% of it",
            remedy=f"give a --vocab-size of at least {smallest}, or a --tokenizer",
        ) from None
    except _TooLargeError as error:
        largest = _largest_vocabulary(text, error.maximum, threads)
    smallest = _smallest_vocabulary(text)
    remedy = "give more text, or a --tokenizer"
    if largest >= smallest:
        remedy = f"give a --vocab-size from {smallest} to {largest}, more text, or a --tokenizer"
    raise TextError(f"too little text for a vocabulary of {vocabulary_size}", remedy=remedy)


class _TooSmallError(Exception):
    """The vocabulary has no room for the characters."""


class _TooLargeError(Exception):
    """The text has fewer pieces than the vocabulary; `maximum` is their number."""

    def __init__(self, maximum: int) -> None:
        super().__init__(maximum)
        self.maximum = maximum


class _Text:
    """Lines to train on, and how often they have each character."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.characters: Counter[str] = Counter()
        for line in lines:
            self.characters.update(line)

    @cached_property
    def ranked(self) -> list[tuple[str, int]]:
        """The space, then characters as SentencePiece counts them, the most frequent first."""
        counts = Counter(self.characters)
        for character in (*_NEVER_IN_ALPHABET, " ", _SPACE):
            counts.pop(character, None)
        longest = len(_LAYOUT[-1])
        runs = (run for line in self.lines for run in re.findall(f"[ {_SPACE}]+", line))
        # Of other lengths, a run consists of pieces of the layout.
        spaces = sum(1 for run in runs if len(run) % longest == 1)
        others = sorted((+counts).items(), key=lambda item: (-item[1], item[0]))
        return [(_SPACE, spaces), *others]

    @cached_property
    def alphabet_size(self) -> int:
        """Number of the first ranked characters, which cover 99.99% of the text."""
        wanted = _COVERAGE * sum(count for _, count in self.ranked)
        covered = itertools.accumulate((count for _, count in self.ranked), initial=0)
        return sum(1 for count in covered if count < wanted)

    def split(self, alphabet_size: int) -> list[str]:
        """Return the lines split where they have none of the first `alphabet_size` characters."""
        kept = "".join(character for character, _ in self.ranked[:alphabet_size])
        rare = re.compile(f"[^{re.escape(kept)} \t]+")
        return [part for line in self.lines for part in rare.split(line) if part.strip()]


def _smallest_vocabulary(text: _Text) -> int:
    """Return the smallest vocabulary with room for the characters that it is to have."""
    return next(
        size
        for size in itertools.count(MIN_VOCABULARY_SIZE)
        if size - min(text.alphabet_size, int(size * _MAX_ALPHABET_FRACTION)) >= _FIXED_PIECES
    )


def _largest_vocabulary(text: _Text, candidate: int, threads: int) -> int:
    """Return the largest vocabulary that trains, at most `candidate`."""
    while candidate >= MIN_VOCABULARY_SIZE:
        try:
            _train(text, candidate, threads)
        except _TooLargeError as error:
            candidate = error.maximum  # with fewer characters, it may still be too large
        except _TooSmallError:
            return 0
        else:
            return candidate
    return 0


def _train(text: _Text, vocabulary_size: int, threads: int) -> bytes:
    """Train on `text`. Raises _TooSmallError or _TooLargeError."""
    maximum = int(vocabulary_size * _MAX_ALPHABET_FRACTION)
    coverage = _coverage(text.characters, maximum)
    readable = any(_SKIPPED not in line for line in text.lines)
    if coverage >= _MIN_COVERAGE and readable:
        try:
            model = _train_lines(text.lines, vocabulary_size, threads, character_coverage=coverage)
        except _TooSmallError:  # where layout is frequent, it takes more characters than 40%
            pass
        else:
            if any(piece.piece == _SPACE for piece in parse_model(model).pieces):
                return model
    alphabet_size = min(text.alphabet_size, maximum)
    if vocabulary_size - alphabet_size < _FIXED_PIECES:
        raise _TooSmallError
    # SentencePiece forms no pieces across rare characters, so it need not see them.
    lines = text.split(alphabet_size)
    if lines and not text.ranked[0][1]:
        # Without a piece of its own, a space would be decoded as U+2581. A required character that
        # is not in the text makes older versions abort.
        lines.append(" ".join(2 * text.ranked[1][0]))
    return _train_lines(lines, vocabulary_size, threads, character_coverage=1.0)


def _train_lines(
    lines: list[str],
    vocabulary_size: int,
    threads: int,
    **alphabet: Any,
) -> bytes:
    """Train on `lines`, with SentencePiece's options `alphabet`."""
    if not lines:
        raise _TooLargeError(0)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary_size,
            **alphabet,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=16 * _MAX_LINE_CHARACTERS,
            pad_id=PAD,
            eos_id=END,
            bos_id=BEGIN,
            unk_id=UNKNOWN,
            pad_piece=PIECES[PAD],
            eos_piece=PIECES[END],
            bos_piece=PIECES[BEGIN],
            unk_piece=PIECES[UNKNOWN],
            # Unlike Gemma's user-defined symbol, a control symbol never matches text: a literal
            # "<mask>" in a document stays text.
            control_symbols=[PIECES[MASK]],
            user_defined_symbols=_LAYOUT,
            num_threads=threads,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        message = str(error)
        if "smaller than required_chars" in message:
            raise _TooSmallError from error
        if maximum := re.search(r"size too high .*<= (\d+)", message):
            raise _TooLargeError(int(maximum.group(1))) from error
        raise TextError(
            f"no tokenizer with a vocabulary of {vocabulary_size} can be trained on this text: "
            f"{message.splitlines()[0]}",
            remedy="give another --vocab-size, more text, or a --tokenizer",
        ) from error
    proto = parse_model(model.getvalue())
    proto.trainer_spec.ClearField("num_threads")  # otherwise the file depends on the machine
    trained: bytes = proto.SerializeToString(deterministic=True)
    return trained


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        for start in range(0, len(line), _MAX_LINE_CHARACTERS):
            part = line[start : start + _MAX_LINE_CHARACTERS]
            if part.strip():
                yield part


def _coverage(characters: Counter[str], maximum: int) -> float:
    """Return the fraction of the text covered by `maximum` distinct characters, up to 99.99%."""
    total = sum(characters.values())
    covered = 0
    for rank, (_, count) in enumerate(characters.most_common()):
        if rank >= maximum or covered >= _COVERAGE * total:
            break
        covered += count
    return min(_COVERAGE, covered / max(1, total))
