"""Predicted tokens of a row, masked or next ones: a pure function of (seed, row).

Random numbers are the raw 64-bit output of Philox, a counter-based generator, which numpy keeps
stable between versions; nothing depends on ranks, workers or earlier draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.data.loading.masks.document_counts import divide_among_documents
from mmbert.data.loading.masks.runs import choose_runs, span_limits, span_starts
from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.errors import TokenizerError
from mmbert.files import parse_json
from mmbert.recipe import MaskingSettings, MaskRatioRange, mean_mask_ratio

# Longer words are split: in scripts without spaces a "word" would be a whole sentence.
MAX_WORD_TOKENS = 8
# Key of an ineligible token; all other keys have 31 bits.
_INELIGIBLE = np.uint32(2**32 - 1)


@dataclass(frozen=True)
class MaskedRow:
    """A row and what is predicted of it."""

    input_ids: np.ndarray
    """int32 [T], with the replacements of masked tokens."""
    positions: np.ndarray
    """int32 [n], ascending; where a prediction is made."""
    labels: np.ndarray
    """int32 [n], the original tokens at these positions, or the next ones."""


class Masker:
    """Masks exactly round(ratio · n) of the n tokens of a row that are not special.

    Random replacements are uniform over the vocabulary without the special ids.

    Args:
        seed: determines the masks of a run.
        word_starts: bool [vocabulary], ids that begin a word; enables whole-word masking.
    """

    def __init__(
        self,
        tokenizer: TokenizerDescription,
        settings: MaskingSettings,
        seed: int,
        word_starts: np.ndarray | None = None,
    ) -> None:
        self._specials = np.array(tokenizer.special_ids.all())
        self._is_special = np.zeros(tokenizer.vocabulary_size, dtype=bool)
        self._is_special[self._specials] = True
        self._text_ids = tokenizer.vocabulary_size - len(self._specials)
        self._mask_id = tokenizer.special_ids.mask
        self._settings = settings
        self._seed = seed
        self._word_starts = word_starts
        self._span_limits = None if settings.spans is None else span_limits(settings.spans)

    def mask(
        self,
        input_ids: np.ndarray,
        ratio: float | MaskRatioRange,
        row: int,
        ends: np.ndarray | None = None,
    ) -> MaskedRow:
        """Mask row number `row` of the run (int32 [T], not modified).

        Args:
            ratio: fraction of the row's tokens, or the range of those of its documents.
            ends: ends of the documents in the row, ascending int [documents]; needed for a range.
        """
        words = np.random.Philox(key=np.array([self._seed, row], dtype=np.uint64))
        keys, eligible = self._keys(input_ids, words)
        count = round(mean_mask_ratio(ratio) * eligible)
        single = self._word_starts is None and self._span_limits is None
        if single and not isinstance(ratio, MaskRatioRange):
            positions = np.flatnonzero(_smallest(keys, count))
        else:
            text = np.flatnonzero(keys != _INELIGIBLE)
            sizes, counts = np.array([len(text)]), np.array([count])
            if isinstance(ratio, MaskRatioRange):
                assert ends is not None
                sizes = np.diff(np.searchsorted(text, ends), prepend=0)
                counts = divide_among_documents(ratio, sizes, count, words)
            if single:
                positions = text[_smallest_of_each(keys[text], sizes, counts)]
            else:
                starts = self._starts(input_ids, text, words)
                positions = choose_runs(text, starts, keys[text], sizes, counts)
        labels = input_ids[positions]
        masked = input_ids.copy()
        masked[positions] = self._replacements(labels, words)
        return MaskedRow(masked, positions.astype(np.int32), labels)

    def next_tokens(self, input_ids: np.ndarray, share: float, row: int) -> MaskedRow:
        """Choose tokens of row number `row` to predict from those before them.

        Exactly round(share · n) of the n tokens that are not special, one by one: those that `mask`
        chooses at this ratio if it masks single tokens. A position is the one before its label,
        always in the same segment, since each begins with a special token. Decoders also predict
        the end of a document; here an end token closes every part of a document that was cut, and
        is no label.

        Args:
            input_ids: int32 [T], returned as they are.
            share: fraction of the tokens, up to 1.
            row: number of the row in the run.
        """
        words = np.random.Philox(key=np.array([self._seed, row], dtype=np.uint64))
        keys, eligible = self._keys(input_ids, words)
        chosen = np.flatnonzero(_smallest(keys, round(share * eligible)))
        return MaskedRow(input_ids, (chosen - 1).astype(np.int32), input_ids[chosen])

    def _keys(self, input_ids: np.ndarray, words: np.random.Philox) -> tuple[np.ndarray, int]:
        """Draw a key for each token, and count those that are not special."""
        keys = words.random_raw((len(input_ids) + 1) // 2).view(np.uint32)[: len(input_ids)]
        keys >>= np.uint32(1)
        special = np.flatnonzero(self._is_special.take(input_ids))
        keys[special] = _INELIGIBLE
        return keys, len(input_ids) - len(special)

    def _replacements(self, labels: np.ndarray, words: np.random.Philox) -> np.ndarray:
        """Draw each replacement: mask token, random token or the token itself."""
        draws = words.random_raw(len(labels))
        choice = (draws >> np.uint64(32)).astype(np.float64) * 2.0**-32
        replaced = np.where(choice < self._settings.mask, np.int32(self._mask_id), labels)
        replaced_fraction = self._settings.mask + self._settings.random
        random = np.flatnonzero((choice >= self._settings.mask) & (choice < replaced_fraction))
        # 32 bits scaled to the number of text ids: uniform to one part in ten thousand
        value = (draws[random] & np.uint64(0xFFFFFFFF)) * np.uint64(self._text_ids)
        random_ids = (value >> np.uint64(32)).astype(np.int32)
        for special in self._specials:  # ascending: skip each special id
            random_ids += random_ids >= special
        replaced[random] = random_ids
        return replaced

    def _starts(
        self, input_ids: np.ndarray, eligible: np.ndarray, words: np.random.Philox
    ) -> np.ndarray:
        """Return which eligible tokens begin a word or a span (bool)."""
        starts = np.ones(len(eligible), dtype=bool)
        starts[1:] = np.diff(eligible) != 1  # after a special token
        if self._span_limits is not None:
            return span_starts(starts, self._span_limits, words)
        assert self._word_starts is not None
        starts |= self._word_starts[input_ids[eligible]]
        first = np.flatnonzero(starts)
        lengths = np.diff(np.append(first, len(eligible)))
        within = np.arange(len(eligible)) - np.repeat(first, lengths)
        return starts | (within % MAX_WORD_TOKENS == 0)


def _smallest_of_each(keys: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Select the `counts[i]` smallest keys of the i-th of parts of `sizes[i]` keys (bool)."""
    ends = np.cumsum(sizes)
    parts = np.split(keys, ends[:-1])
    return np.concatenate(
        [_smallest(part, count) for part, count in zip(parts, counts.tolist(), strict=True)]
    )


def _smallest(keys: np.ndarray, count: int) -> np.ndarray:
    """Select the `count` smallest keys (bool); among equal keys, the first ones."""
    if count <= 0:
        return np.zeros(len(keys), dtype=bool)
    if count >= len(keys):
        return np.ones(len(keys), dtype=bool)
    threshold = np.partition(keys, count - 1)[count - 1]
    chosen = keys <= threshold
    surplus = int(np.count_nonzero(chosen)) - count
    if surplus:
        chosen[np.flatnonzero(keys == threshold)[-surplus:]] = False
    return chosen


def read_word_starts(tokenizer_folder: Path, vocabulary_size: int) -> np.ndarray:
    """Find the ids that begin a word, from markers in the tokenizer's vocabulary.

    SentencePiece's ▁ and byte-level BPE's Ġ mark a space before a token, WordPiece's ## its
    absence; line breaks and tabs begin words too.

    Returns:
        bool [vocabulary_size].

    Raises:
        TokenizerError: tokenizer.json is missing or has no vocabulary.
    """
    path = tokenizer_folder / "tokenizer.json"
    remedy = "set data.masking.whole_word to false, or preprocess with a Hugging Face tokenizer"
    try:
        vocabulary = parse_json(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except FileNotFoundError:
        raise TokenizerError(
            f"{path} is missing; whole-word masking needs it", remedy=remedy
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path} has no vocabulary: {error}", remedy=remedy) from error
    pairs = (
        vocabulary.items()
        if isinstance(vocabulary, dict)
        else ((entry[0], number) for number, entry in enumerate(vocabulary))
    )
    starts = np.zeros(vocabulary_size, dtype=bool)
    pieces = [(piece, number) for piece, number in pairs if number < vocabulary_size]
    wordpiece = any(piece.startswith("##") for piece, _ in pieces)
    for piece, number in pieces:
        if wordpiece:
            starts[number] = not piece.startswith("##")
        else:
            starts[number] = piece[:1] in {"▁", "Ġ", "Ċ", "ĉ", "\n", "\t", " "}
    return starts


def row_masker(corpus: Corpus, settings: MaskingSettings, seed: int) -> Masker:
    """Build the masker for `settings`; whole-word masking reads the tokenizer's vocabulary."""
    starts = None
    if settings.whole_word:
        starts = read_word_starts(corpus.tokenizer_folder, corpus.tokenizer.vocabulary_size)
    return Masker(corpus.tokenizer, settings, seed, starts)
