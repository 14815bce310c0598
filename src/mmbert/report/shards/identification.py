"""Comparison of the languages that an identifier finds in a sample with the folders' names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.report.shards.contents import LanguageContents, ShardsContents
from mmbert.report.shards.identifiers import Identifier, variety
from mmbert.report.shards.names import language_name
from mmbert.report.shards.samples import Sampler

DOCUMENTS = 30
"""Documents of a language that are looked at."""
SUSPICIOUS_SHARE = 0.7
"""Share of the same language below which a folder is suspicious."""
_CHARACTERS = 500
_FEWEST_LETTERS = 20  # of a text that can be identified


@dataclass(frozen=True)
class IdentifiedLanguage:
    """What an identifier found in the sample of a language."""

    source: str
    language: str
    documents: int
    """Documents with enough letters."""
    same: int
    """Of these, identified as the language or as another of its macrolanguage."""
    others: Counter[str]
    """Labels of the others."""

    @property
    def share(self) -> float:
        """Share identified as the same language."""
        return self.same / self.documents

    @property
    def most_frequent_other(self) -> str:
        """Most frequent other label, with its name and share; empty if there is none."""
        if not self.others:
            return ""
        label, count = min(self.others.items(), key=lambda item: (-item[1], item[0]))
        name = language_name(label)
        return f"{label}{f' ({name})' if name else ''} {count / self.documents:.0%}"

    @property
    def is_suspicious(self) -> bool:
        """Whether too few documents are of the language."""
        return self.share < SUSPICIOUS_SHARE


@dataclass(frozen=True)
class Identification:
    """What an identifier found in all languages that it knows."""

    identifier: str
    labels: int
    """Number of languages that it distinguishes."""
    languages: Sequence[IdentifiedLanguage]
    """With the smallest share of the same language first."""
    not_checked: Sequence[str]
    """`source/language` that the identifier does not know."""
    too_short: Sequence[str]
    """`source/language` of which no sampled document has enough letters."""

    @property
    def suspicious(self) -> list[IdentifiedLanguage]:
        """Languages of which too few documents are."""
        return [found for found in self.languages if found.is_suspicious]


def identify_languages(
    contents: ShardsContents, sampler: Sampler, identifier: Identifier
) -> Identification:
    """Identify a sample of every language that the identifier knows."""
    known = {variety(label) for label in identifier.labels}
    found, not_checked, too_short = [], [], []
    for language in contents.languages:
        if language.component is None:
            continue
        if variety(language.language) not in known:
            not_checked.append(language.component.name)
            continue
        texts = _texts(language, sampler)
        if not texts:
            too_short.append(language.component.name)
            continue
        wanted = variety(language.language)
        labels = Counter(identifier.identify(texts))
        others = Counter({name: n for name, n in labels.items() if not _is(name, language, wanted)})
        found.append(
            IdentifiedLanguage(
                language.source,
                language.language,
                len(texts),
                len(texts) - others.total(),
                others,
            )
        )
    found.sort(key=lambda item: (item.share, item.language, item.source))
    return Identification(
        identifier.name, len(identifier.labels), found, sorted(not_checked), sorted(too_short)
    )


def _is(label: str, language: LanguageContents, wanted: object) -> bool:
    return label == language.language or variety(label) == wanted


def _texts(language: LanguageContents, sampler: Sampler) -> list[str]:
    if language.component is None:
        return []
    sampled = sampler.sample(language.component, DOCUMENTS, _CHARACTERS)
    return [
        document.text
        for document in sampled
        if sum(map(str.isalpha, document.text)) >= _FEWEST_LETTERS
    ]
