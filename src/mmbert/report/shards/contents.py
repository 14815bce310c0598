"""Figures of each language of each source, from manifests, summaries and index files."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmbert.data.shards.corpus import Component, Corpus, open_corpus
from mmbert.data.shards.manifest import MANIFEST_NAME
from mmbert.data.shards.tokenizer_description import DESCRIPTION_NAME
from mmbert.errors import ShardsError
from mmbert.report.run import SIGNS_OF_A_RUN
from mmbert.report.shards.document_lengths import DocumentLengths, count_lengths
from mmbert.report.shards.names import script_of

SUMMARY_NAME = "summary.json"


class LanguageFigures(BaseModel):
    """What a summary knows of a language beyond its manifest."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    cleaned: int = 0
    tokens_per_word: float | None = None
    characters_per_token: float | None = None
    byte_fallback_share: float | None = None
    unknown_share: float | None = None


class SourceSummary(BaseModel):
    """The part of a source's summary.json that the report shows."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    languages: Mapping[str, LanguageFigures] = Field(default_factory=dict)
    without_text: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)
    damaged_files: Sequence[str] = ()


@dataclass(frozen=True)
class LanguageContents:
    """A language of a source."""

    source: str
    language: str
    component: Component | None
    """None for a language of which no document was kept."""
    rejected: Mapping[str, int]
    lengths: DocumentLengths | None = None
    figures: LanguageFigures = field(default_factory=LanguageFigures)

    @property
    def script(self) -> str:
        """Script of the language; empty if its name has none."""
        return script_of(self.language)

    @property
    def documents(self) -> int:
        """Training documents."""
        return self.component.manifest.train.documents if self.component else 0

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return self.component.manifest.train.tokens if self.component else 0

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the training text."""
        return self.component.manifest.train.bytes if self.component else 0

    @property
    def heldout(self) -> int:
        """Held-out documents."""
        return self.component.manifest.heldout.documents if self.component else 0

    @property
    def rejected_documents(self) -> int:
        """Rejected documents, for all reasons."""
        return sum(self.rejected.values())

    @property
    def read(self) -> int:
        """Documents read."""
        return self.documents + self.heldout + self.rejected_documents

    @property
    def rejected_share(self) -> float:
        """Rejected documents as a fraction of those read."""
        return self.rejected_documents / self.read if self.read else 0.0


@dataclass(frozen=True)
class ShardsContents:
    """All languages of all sources, the largest first."""

    folder: Path
    corpus: Corpus
    languages: Sequence[LanguageContents]
    damaged_files: Mapping[str, Sequence[str]]
    """Files read in part, by source."""
    missing: Sequence[str]

    @property
    def sources(self) -> list[str]:
        """Names of the sources."""
        return sorted({language.source for language in self.languages})

    def rejected(self) -> Counter[str]:
        """Return the rejected documents by reason."""
        found: Counter[str] = Counter()
        for language in self.languages:
            found.update(language.rejected)
        return found


def is_shards_folder(folder: Path) -> bool:
    """Return whether `folder` is an output of preprocessing and not of training."""
    if any((folder / name).exists() for name in SIGNS_OF_A_RUN):
        return False
    has_manifest = next(folder.glob(f"*/*/{MANIFEST_NAME}"), None) is not None
    return has_manifest or (folder / "tokenizer" / DESCRIPTION_NAME).is_file()


def read_contents(folder: Path) -> ShardsContents:
    """Read manifests, summaries and the indexes of the training shards.

    Raises:
        ShardsError: no language is finished, or a file is damaged.
    """
    corpus = open_corpus(folder)
    missing = []
    summaries = {}
    for source in sorted({component.source for component in corpus.components}):
        path = folder / source / SUMMARY_NAME
        summary = _read_summary(path)
        if summary is None:
            state = "unreadable" if path.exists() else "no"
            missing.append(
                f"{state} {SUMMARY_NAME} in {source}: its byte fallback, tokens per word and "
                "languages without text are unknown"
            )
        summaries[source] = summary or SourceSummary()
    languages = [
        LanguageContents(
            component.source,
            component.language,
            component,
            component.manifest.rejected,
            count_lengths(_lengths_of_shards(corpus, component)),
            summaries[component.source].languages.get(component.language, LanguageFigures()),
        )
        for component in corpus.components
    ]
    languages += [
        LanguageContents(source, language or "(no language)", None, dict(reasons))
        for source, summary in summaries.items()
        for language, reasons in summary.without_text.items()
    ]
    languages.sort(key=lambda found: (-found.tokens, found.language, found.source))
    damaged = {name: found.damaged_files for name, found in summaries.items()}
    damaged = {name: files for name, files in damaged.items() if files}
    return ShardsContents(folder, corpus, languages, damaged, missing)


def _lengths_of_shards(corpus: Corpus, component: Component) -> Iterator[npt.NDArray[np.int32]]:
    """Yield the lengths of the documents of each training shard, in tokens."""
    for number, shard in enumerate(component.manifest.train.shards):
        lengths = corpus.shard(component, "train", number).lengths
        if len(lengths) and (lengths.min() < 0 or lengths.sum(dtype=np.int64) != shard.tokens):
            raise ShardsError(
                f"{component.folder / shard.name}.idx is damaged: its documents do not sum to the "
                f"manifest's {shard.tokens} tokens",
                remedy="restore the file from a copy, or remove summary.json from the source's "
                "folder and run the same preprocessing command again, which remakes the source",
            )
        yield lengths


def _read_summary(path: Path) -> SourceSummary | None:
    try:
        return SourceSummary.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
