"""Losses of all workers in one folder of files, and the early end of a run that loses too much."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import BaseModel, Field

from mmbert.files import make_folder, write_json
from mmbert_prep.executor.storage import read_json
from mmbert_prep.losses.limits import DocumentCounts, Losses, find_excess
from mmbert_prep.losses.message import loss_error
from mmbert_prep.losses.plan import PlannedInput
from mmbert_prep.readers.accounting import FileLoss
from mmbert_prep.settings import LossSettings

# A worker looks at the others' losses when its own have grown by this part of its share of a limit.
_PART = 4


class _Entry(BaseModel):
    losses: list[FileLoss] = Field(default_factory=list)


class LossLedger:
    """The losses of a stage, from the view of one worker.

    Each work unit that lost something has one file, written before the unit is marked as done, so
    that a run that continues knows what earlier ones lost. Units that lost nothing cost nothing.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        keys: Iterable[str],
        planned: PlannedInput,
        settings: LossSettings,
        workers: int,
        named: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Read the losses of earlier runs. `named` names the source in errors."""
        make_folder(folder)
        self._named = named
        self._folder, self._stage, self._keys = folder, stage, set(keys)
        self._planned, self._settings, self._workers = planned, settings, workers
        self._seen: set[str] = set()
        self._losses = planned_losses(planned)
        self._unchecked = Losses(planned)
        self.check()

    def record(self, key: str, losses: list[FileLoss]) -> None:
        """Record what a unit lost that is about to be marked as done."""
        if losses:
            entry = _Entry(losses=losses)
            write_json(self._folder / f"{self._stage}-{key}.json", entry.model_dump(mode="json"))
            self._unchecked.add(losses)

    def check_if_needed(self) -> None:
        """Check the losses of all workers if the new ones of this worker may matter."""
        if self._matters():
            self.check()

    def check(self, pending: Iterable[FileLoss] = ()) -> None:
        """Raise TextError if the losses of all workers, and `pending`, exceed a limit."""
        prefix = f"{self._stage}-"
        for path in sorted(self._folder.glob(f"{prefix}*.json")):
            key = path.stem.removeprefix(prefix)
            if key in self._keys and key not in self._seen:
                self._seen.add(key)
                self._losses.add(_Entry.model_validate(read_json(path)).losses)
        self._unchecked = Losses(self._planned)
        losses = self._losses
        if pending := list(pending):
            losses = copy.deepcopy(losses)  # rare: in the middle of large files
            losses.add(pending)
        with self._named():
            check_losses(losses, self._planned, self._settings)

    def _matters(self) -> bool:
        parts = _PART * self._workers
        new, planned = self._unchecked, self._planned
        limits = (
            (new.unread_bytes, self._settings.maximum_unread_fraction),
            (new.unnamed_bytes, self._settings.maximum_without_language_fraction),
        )
        if any(size * parts > limit * planned.input_bytes for size, limit in limits if size):
            return True
        pairs = [(size, planned.languages.get(key)) for key, size in new.languages.items()]
        for sizes in (new.folders_unread, new.folders_unnamed):
            pairs += [(size, planned.folders.get(key)) for key, size in sizes.items()]
        return any(total and size * 2 * parts > total for size, total in pairs)


class SurveyLedger:
    """The ledgers of all sources, for work units that may be of several."""

    def __init__(self, ledgers: Mapping[str, Sequence[LossLedger]]) -> None:
        """Take the ledgers of each unit, by its key."""
        self._ledgers = ledgers

    def record(self, key: str, losses: list[FileLoss]) -> None:
        """Record what a unit lost for all of its sources."""
        for ledger in self._ledgers[key]:
            ledger.record(key, losses)

    def check_if_needed(self, key: str) -> None:
        """Check the losses of the unit's sources, as `LossLedger.check_if_needed`."""
        for ledger in self._ledgers[key]:
            ledger.check_if_needed()


def planned_losses(planned: PlannedInput) -> Losses:
    """Return the losses that are known before reading and that no work unit reports."""
    losses = Losses(planned)
    losses.add(planned.unopened)
    losses.add(planned.unnamed, folders=False)
    return losses


def check_losses(
    losses: Losses,
    planned: PlannedInput,
    settings: LossSettings,
    documents: DocumentCounts | None = None,
    language_bytes: dict[str, int] | None = None,
) -> None:
    """Raise TextError if losses exceed a limit (see `find_excess`)."""
    excess = find_excess(losses, planned, settings, documents, language_bytes)
    if excess:
        raise loss_error(excess, losses, planned, settings, documents)
