"""Embeddings for a new or extended tokenizer, derived from those of the old one."""

from dataclasses import dataclass
from typing import Literal

import torch

from mmbert.errors import TokenizerError
from mmbert.hub.tokenizer import FastTokenizer

Initialization = Literal["subwords", "mean"]


@dataclass(frozen=True)
class VocabularyChange:
    """Initialization of each new embedding row by the mean of old rows.

    `sources` holds the old ids of each new id. `kept`, `composed` and `averaged` count the new ids
    with one, several and no old ids; the last get the mean of the whole old vocabulary.
    """

    sources: tuple[tuple[int, ...], ...]
    kept: int
    composed: int
    averaged: int

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Map rows [old vocabulary, …] to [new vocabulary, …]; kept rows are copied bit for bit."""
        changed = torch.empty((len(self.sources), *rows.shape[1:]), dtype=rows.dtype)
        single = [(new, old[0]) for new, old in enumerate(self.sources) if len(old) == 1]
        new_ids, old_ids = torch.tensor(single, dtype=torch.int64).reshape(-1, 2).T
        changed[new_ids] = rows[old_ids]
        mean = rows.double().mean(0).to(rows.dtype)
        for new, old in enumerate(self.sources):
            if not old:
                changed[new] = mean
            elif len(old) > 1:
                changed[new] = rows[list(old)].double().mean(0).to(rows.dtype)
        return changed


def change_vocabulary(
    old: FastTokenizer, new: FastTokenizer, initialization: Initialization
) -> VocabularyChange:
    """Match the tokens of `new` to those of `old`.

    Special tokens match by role; other tokens by their bytes, so that SentencePiece and byte-level
    vocabularies match. New tokens start from the mean of their old subwords ("subwords") or of all
    old tokens ("mean"). Raises UserError if either tokenizer lacks a required special token.
    """
    for tokenizer in (old, new):
        if tokenizer.special_ids is None:
            raise TokenizerError(
                f"the tokenizer in {tokenizer.folder} lacks a special token: it needs pad, begin"
                " (cls or bos), end (sep or eos), unknown and mask",
                remedy="set them in its tokenizer_config.json",
            )
    assert old.special_ids is not None
    assert new.special_ids is not None
    roles = new.special_ids.model_dump()
    special = {roles[role]: old_id for role, old_id in old.special_ids.model_dump().items()}
    by_bytes: dict[bytes, int] = {}
    for token, identifier in sorted(old.vocabulary.items(), key=lambda item: item[1]):
        if identifier not in old.special_ids.all():
            by_bytes.setdefault(old.token_bytes(token), identifier)
    sources: list[tuple[int, ...]] = [()] * new.size
    for token, identifier in new.vocabulary.items():
        if identifier in special:
            sources[identifier] = (special[identifier],)
        else:
            sources[identifier] = _spelling(new.token_bytes(token), old, by_bytes, initialization)
    lengths = [len(ids) for ids in sources]
    return VocabularyChange(
        sources=tuple(sources),
        kept=lengths.count(1),
        composed=sum(length > 1 for length in lengths),
        averaged=lengths.count(0),
    )


def _spelling(
    content: bytes,
    old: FastTokenizer,
    by_bytes: dict[bytes, int],
    initialization: Initialization,
) -> tuple[int, ...]:
    """Return the old ids that encode `content`: one, several, or none."""
    if content in by_bytes:
        return (by_bytes[content],)
    if initialization == "mean":
        return ()
    assert old.special_ids is not None
    unknown = old.special_ids.unknown
    spelling = [identifier for identifier in old.encode_bytes(content) if identifier != unknown]
    # Drop the space that some tokenizers prepend to every text.
    if spelling and not content.startswith(b" ") and spelling[0] == by_bytes.get(b" "):
        del spelling[0]
    return tuple(spelling)
