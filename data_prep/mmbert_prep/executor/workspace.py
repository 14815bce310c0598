"""Workspace of intermediate results, SHARDS/.preprocess/<source>/; removed by a finished run."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mmbert.files import atomic_write, make_folder, sync_folder

WORK_FOLDER = ".preprocess"
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class LanguagePaths:
    """Paths of a language before and after publication."""

    staging: Path
    """Folder where its files are written."""
    target: Path
    """Published folder, moved into place once complete."""
    commit_marker: Path
    """Copy of the manifest; marks `target` as written by this run."""


class Workspace:
    """Paths of one run."""

    def __init__(self, output: Path, source: str) -> None:
        self.tokenizer = output / "tokenizer"
        self.source = output / source
        self.summary = self.source / SUMMARY_NAME
        self.lock = output / WORK_FOLDER / "lock.json"
        self.root = output / WORK_FOLDER / source
        self.plan = self.root / "plan.json"
        self.claims = self.root / "claims"
        self.progress = self.root / "progress"
        self.samples = self.root / "survey"
        self.losses = self.root / "losses"
        self.languages = self.root / "languages.json"
        self.merge = self.root / "merge"
        self.staging = self.root / "staging"
        self.commit_markers = self.root / "receipts"
        self._removed = output / WORK_FOLDER / f".{source}"  # no source's name starts with a dot
        self._merged_units = self.root / "merged-units"

    def language(self, language: str) -> LanguagePaths:
        """Return the paths of one language."""
        return LanguagePaths(
            staging=self.staging / language,
            target=self.source / language,
            commit_marker=self.commit_markers / f"{language}.json",
        )

    def units(self, fingerprint: str, fast_encoder: str) -> Path:
        """Return the folder of intermediate shards made with a tokenizer and a fast encoder.

        One folder per encoder: a run without kitoken never uses its possibly faulty results.
        """
        # 2: their reports have what was lost. Those of earlier versions are made again.
        return self.root / f"units-2-{fingerprint[:12]}-{fast_encoder}"

    def create(self) -> None:
        """Create the folders."""
        shutil.rmtree(self._removed, ignore_errors=True)  # of a removal that was interrupted
        for folder in (
            self.root,
            self.claims,
            self.progress,
            self.samples,
            self.losses,
            self.merge,
            self.staging,
            self.commit_markers,
        ):
            make_folder(folder)

    def merged_units(self) -> str | None:
        """Return the name of the folder that the merge results were made from, if there are any."""
        return (
            self._merged_units.read_text(encoding="utf-8") if self._merged_units.exists() else None
        )

    def is_merged_from(self, units: Path) -> bool:
        """Return whether the merge results were made from these intermediate shards."""
        return self.merged_units() == units.name

    def remove_merge(self, units: Path | None) -> None:
        """Discard the merge results. Record `units`, if given, as the input of the next merge."""
        self._merged_units.unlink(missing_ok=True)
        sync_folder(self.root)
        for folder in (self.merge, self.staging, self.commit_markers):
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
        if units is not None:
            with atomic_write(self._merged_units) as file:
                file.write(units.name.encode())

    def remove(self) -> None:
        """Remove the intermediate results, all at once for a later run."""
        shutil.rmtree(self._removed, ignore_errors=True)
        if self.root.exists():
            os.replace(self.root, self._removed)
            sync_folder(self.root.parent)
            shutil.rmtree(self._removed, ignore_errors=True)
