"""Where a run keeps what it needs to continue: SHARDS/.preprocess/<source>/, removed at the end."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmbert.files import atomic_write, make_folder, sync_folder
from mmbert_prep.settings import PrepSettings

WORK_FOLDER = ".preprocess"
SUMMARY_NAME = "summary.json"


class Workspace:
    """The paths of one run."""

    def __init__(self, settings: PrepSettings) -> None:
        output = settings.output
        self.output = output
        self.tokenizer = output / "tokenizer"
        self.source = output / settings.source
        self.summary = self.source / SUMMARY_NAME
        self.lock = output / WORK_FOLDER / "lock.json"
        self.root = output / WORK_FOLDER / settings.source
        self.plan = self.root / "plan.json"
        self.claims = self.root / "claims"
        self.progress = self.root / "progress"
        self.samples = self.root / "survey"
        self.languages = self.root / "languages.json"
        self.merge = self.root / "merge"
        self.staging = self.root / "staging"
        self.commit_markers = self.root / "receipts"
        self._merged_units = self.root / "merged-units"

    def units(self, fingerprint: str, fast_encoder: str) -> Path:
        """Parts made with a tokenizer of this fingerprint, with or without a fast encoder.

        Apart, so that a run without it never takes over what a doubtful fast encoder made.
        """
        return self.root / f"units-{fingerprint[:12]}-{fast_encoder}"

    def create(self) -> None:
        """Make the folders."""
        for folder in (
            self.root,
            self.claims,
            self.progress,
            self.samples,
            self.merge,
            self.staging,
            self.commit_markers,
        ):
            make_folder(folder)

    def is_merged_from(self, units: Path) -> bool:
        """Whether what is merged so far was made of these parts."""
        return self._merged_units.exists() and self._merged_units.read_text() == units.name

    def remove_merge(self, units: Path | None) -> None:
        """Forget what was merged, as the plan or the parts changed; from now on `units` are."""
        self._merged_units.unlink(missing_ok=True)
        sync_folder(self.root)
        for folder in (self.merge, self.staging, self.commit_markers):
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
        if units is not None:
            with atomic_write(self._merged_units) as file:
                file.write(units.name.encode())

    def remove(self) -> None:
        """Remove everything that only a continued run needs."""
        shutil.rmtree(self.root, ignore_errors=True)
