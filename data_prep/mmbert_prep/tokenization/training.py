"""SentencePiece BPE training with byte fallback, for a tokenizer similar to Gemma's."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece

from mmbert.errors import TextError
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


def train_bpe(texts: Iterable[str], vocabulary_size: int, threads: int) -> bytes:
    """Train a tokenizer and return its model file; equal texts give equal bytes.

    The rarest characters, beyond 99.99% of the text or 40% of the vocabulary, are left to byte
    fallback. Raises TextError if there is too little text for the vocabulary.
    """
    lines = [line for text in texts for line in _lines(text)]
    characters: Counter[str] = Counter()
    for line in lines:
        characters.update(line)
    coverage = _coverage(characters, int(vocabulary_size * _MAX_ALPHABET_FRACTION))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary_size,
            character_coverage=coverage,
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
        maximum = re.search(r"(?:<=|value <=) (\d+)", str(error))
        hint = f" (enough for {maximum.group(1)})" if maximum else ""
        raise TextError(
            f"too little text for a vocabulary of {vocabulary_size}{hint}: "
            f"{str(error).splitlines()[0]}",
            remedy="give a smaller --vocab-size, more text, or a --tokenizer",
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
