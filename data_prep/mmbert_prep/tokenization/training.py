"""Train a SentencePiece BPE with byte fallback on a sample of all languages, Gemma-like."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece

from mmbert.errors import UserError
from mmbert_prep.tokenization.model_proto import parse_model

PAD, END, BEGIN, UNKNOWN, MASK = range(5)
PIECES = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")

# Runs of layout are one token each, as in Gemma's vocabulary. (Runs of spaces are written with the
# sign that SentencePiece puts for a space.)
_LAYOUT = [
    *("\n" * count for count in range(1, 9)),
    *("\t" * count for count in range(1, 5)),
    *("\u2581" * count for count in range(2, 17)),
]
_MAX_LINE_CHARACTERS = (
    2_000  # characters; SentencePiece would leave out lines beyond its limit of bytes
)
_MAX_ALPHABET_FRACTION = 0.4  # of the vocabulary at most: the rest is for longer pieces
_COVERAGE = 0.9999


def train_bpe(texts: Iterable[str], vocabulary_size: int, threads: int) -> bytes:
    """Train on the texts and return the model; the same texts always give the same model.

    Single characters beyond 99.99% of the text (or beyond 40% of the vocabulary) are left to byte
    fallback. Raises UserError when the texts are too few for the vocabulary.
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
            # A control symbol, unlike Gemma's user-defined one, is never found in text: a document
            # that contains "<mask>" literally keeps it as text.
            control_symbols=[PIECES[MASK]],
            user_defined_symbols=_LAYOUT,
            num_threads=threads,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        most = re.search(r"(?:<=|value <=) (\d+)", str(error))
        hint = f"; it is enough for {most.group(1)}" if most else ""
        raise UserError(
            f"the text is too little for a vocabulary of {vocabulary_size}{hint} "
            f"({str(error).splitlines()[0]})",
            remedy="give a smaller --vocab-size or more text, or bring a --tokenizer",
        ) from error
    proto = parse_model(model.getvalue())
    proto.trainer_spec.ClearField("num_threads")  # or the file would depend on the machine
    trained: bytes = proto.SerializeToString(deterministic=True)
    return trained


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        for start in range(0, len(line), _MAX_LINE_CHARACTERS):
            part = line[start : start + _MAX_LINE_CHARACTERS]
            if part.strip():
                yield part


def _coverage(characters: Counter[str], most: int) -> float:
    """The share of characters that are to be in the vocabulary, so that they fit into `most`."""
    total = sum(characters.values())
    covered = 0
    for rank, (_, count) in enumerate(characters.most_common()):
        if rank >= most or covered >= _COVERAGE * total:
            break
        covered += count
    return min(_COVERAGE, covered / max(1, total))
