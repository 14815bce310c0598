"""Random documents of a language, the same at every call, decoded by the shards' tokenizer."""

import random
import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from mmbert.data.shards.corpus import Component, Corpus, SplitName

SAMPLED_DOCUMENTS = 10
SHOWN_CHARACTERS = 300
_TOKENS_OF_A_CHARACTER = 4  # bytes, if every one is a token
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_PICTURES = {chr(code): chr(0x2400 + code) for code in range(32)} | {"\x7f": "\u2421"}


@dataclass(frozen=True)
class SampledDocument:
    """Beginning of a document."""

    number: int
    """Within the split."""
    tokens: int
    text: str
    is_whole: bool


class Sampler:
    """Draws and decodes documents; `available` is False if the shards lack tokenizer.json."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        path = corpus.tokenizer_folder / "tokenizer.json"
        self._tokenizer = _open_tokenizer(path) if path.is_file() else None

    @property
    def available(self) -> bool:
        """Whether documents can be decoded."""
        return self._tokenizer is not None

    def sample(
        self, component: Component, documents: int, characters: int
    ) -> list[SampledDocument]:
        """Return the beginnings of random training documents; of held-out ones without those."""
        if self._tokenizer is None:
            return []
        split: SplitName = "train" if component.manifest.train.documents else "heldout"
        total = component.split(split).documents
        # Seeded by text, which gives the same numbers on all versions and machines.
        numbers = random.Random(component.name).sample(range(total), min(documents, total))
        found = [(n, self._corpus.document(component, split, n)) for n in sorted(numbers)]
        most = characters * _TOKENS_OF_A_CHARACTER
        texts = self._tokenizer.decode_batch(
            [tokens[:most].tolist() for _, tokens in found], skip_special_tokens=False
        )
        return [
            SampledDocument(
                number=number,
                tokens=len(tokens),
                text=text[:characters],
                is_whole=len(tokens) <= most and len(text) <= characters,
            )
            for (number, tokens), text in zip(found, texts, strict=True)
        ]


def visible(text: str) -> str:
    """Return `text` with control characters, which HTML cannot hold, as their pictures."""
    return _CONTROL.sub(lambda match: _PICTURES.get(match[0], "\ufffd"), text)


def _open_tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_str(path.read_text(encoding="utf-8"))
