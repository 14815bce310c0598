"""Sums of losses, and which limits of a run they exceed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmbert_prep.losses.plan import PlannedInput
from mmbert_prep.readers.accounting import FileLoss
from mmbert_prep.settings import LossSettings

LANGUAGE_LIMIT = 0.5
"""A language that loses a larger fraction of its bytes is lost, whatever is allowed in total."""


class Losses:
    """Sums of the losses of a run."""

    def __init__(self, planned: PlannedInput) -> None:
        self._planned = planned
        self.files: dict[str, FileLoss] = {}
        self.unread_bytes = self.unnamed_bytes = 0
        self.languages: dict[str, int] = {}
        """Language -> unread bytes; "" if the language is unknown."""
        self.folders_unread: dict[str, int] = {}
        self.folders_unnamed: dict[str, int] = {}
        """Folder directly below the input -> bytes."""
        self.reasons: dict[str, int] = {}
        self.names: dict[str, int] = {}
        """What language columns have that is no language -> documents."""

    def add(self, losses: Iterable[FileLoss], *, folders: bool = True) -> None:
        """Add losses of file ranges; with `folders` false, not to those of their folders."""
        for loss in losses:
            known = self.files.get(loss.path)
            if known is None:
                self.files[loss.path] = loss.model_copy(deep=True)
            else:
                known.add(loss)
            self.unread_bytes += loss.unread_bytes
            self.unnamed_bytes += loss.unnamed_bytes
            for language, size in loss.languages.items():
                self.languages[language] = self.languages.get(language, 0) + size
            for reason, documents in loss.reasons.items():
                self.reasons[reason] = self.reasons.get(reason, 0) + documents
            for name, documents in loss.names.items():
                self.names[name] = self.names.get(name, 0) + documents
            folder = self._planned.folder_of(loss.path) if folders else None
            if folder is not None:
                for sizes, size in (
                    (self.folders_unread, loss.unread_bytes),
                    (self.folders_unnamed, loss.unnamed_bytes),
                ):
                    sizes[folder] = sizes.get(folder, 0) + size


@dataclass(frozen=True)
class DocumentCounts:
    """Documents of a complete run."""

    read: int
    damaged: int
    unnamed: int
    """Documents without a language."""


@dataclass(frozen=True)
class Excess:
    """What exceeds the limits; false if nothing does."""

    unread: bool = False
    unnamed: bool = False
    documents: bool = False
    unnamed_documents: bool = False
    languages: dict[str, float] = field(default_factory=dict)
    """Language that lost too much -> the fraction of its bytes that was not read."""
    folders: tuple[str, ...] = ()
    """Folders that lost all."""

    def __bool__(self) -> bool:
        """Return whether a limit is exceeded."""
        return any(vars(self).values())


def find_excess(
    losses: Losses,
    planned: PlannedInput,
    settings: LossSettings,
    documents: DocumentCounts | None = None,
    language_bytes: Mapping[str, int] | None = None,
) -> Excess:
    """Compare losses with the limits, as fractions of the whole planned input.

    Losses only grow, so that a run that exceeds a limit on bytes while reading exceeds it at the
    end. Without `documents`, the limits on documents are left to the end.

    Args:
        losses: Losses so far.
        planned: The whole input.
        settings: The limits.
        documents: Documents of the complete run.
        language_bytes: Language -> input bytes, where columns name languages. Default: as planned.
    """
    allowed, allowed_unnamed = (
        settings.maximum_unread_fraction,
        settings.maximum_without_language_fraction,
    )
    shares = {}
    for language, size in losses.languages.items():
        if language_bytes is not None:
            total = language_bytes.get(language, 0)
        else:  # text that columns name may be of this language, too
            total = planned.languages.get(language, 0) + planned.by_column
        if language and size and total:
            shares[language] = size / total
    lost = []
    for folder, total in planned.folders.items():
        unread = losses.folders_unread.get(folder, 0)
        unnamed = losses.folders_unnamed.get(folder, 0)
        may_be_lost = (not unread or allowed >= 1) and (not unnamed or allowed_unnamed >= 1)
        if unread + unnamed >= total and not may_be_lost:
            lost.append(folder)
    of_language = max(LANGUAGE_LIMIT, allowed)
    return Excess(
        unread=losses.unread_bytes > allowed * planned.input_bytes,
        unnamed=losses.unnamed_bytes > allowed_unnamed * planned.input_bytes,
        documents=documents is not None
        and documents.damaged > settings.maximum_rejected_fraction * documents.read,
        unnamed_documents=documents is not None
        and documents.unnamed > allowed_unnamed * documents.read,
        languages={key: share for key, share in sorted(shares.items()) if share > of_language},
        folders=tuple(sorted(lost)),
    )
