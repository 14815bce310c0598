"""Input bytes that a run sets out to read, by language and folder; files lost before that."""

from __future__ import annotations

import os
from pathlib import PurePath

from pydantic import BaseModel, Field

from mmbert_prep.executor.work_units import WorkPlan
from mmbert_prep.languages.overrides import LanguageMap
from mmbert_prep.languages.report import NamedLanguage
from mmbert_prep.readers.accounting import FileLoss, RangeAccount
from mmbert_prep.readers.discovery import Discovery
from mmbert_prep.readers.registry import damage_found_in_planning


class PlannedInput(BaseModel):
    """What the limits are fractions of."""

    root: str = ""
    """Folder that the input lies in; "" for a dataset of the hub."""
    files: int = 0
    """Files of work units, and those that cannot be opened."""
    input_bytes: int = 0
    languages: dict[str, int] = Field(default_factory=dict)
    """Language -> input bytes, of files whose path names their language."""
    folders: dict[str, int] = Field(default_factory=dict)
    """Folder directly below the root -> input bytes."""
    by_column: int = 0
    """Input bytes of files of which columns name the languages."""
    unopened: list[FileLoss] = Field(default_factory=list)
    unnamed: list[FileLoss] = Field(default_factory=list)
    """Files that can name no language. No work unit reads these two kinds."""
    damaged: list[FileLoss] = Field(default_factory=list)
    """Files found unreadable in planning; work units report them again."""

    names: dict[str, NamedLanguage] = Field(default_factory=dict)
    """Names in paths that are no languages."""
    language_map: LanguageMap = LanguageMap()

    def folder_of(self, path: str) -> str | None:
        """Return the folder directly below the root that holds `path`, or None."""
        if not self.root or not path:
            return None
        parts = PurePath(os.path.relpath(path, self.root)).parts
        return parts[0] if len(parts) > 1 and parts[0] != os.pardir else None

    def _add(self, path: str, language: str | None, size: int) -> None:
        self.input_bytes += size
        if language is None:
            self.by_column += size
        else:
            self.languages[language] = self.languages.get(language, 0) + size
        name = self.folder_of(path)
        if name is not None:
            self.folders[name] = self.folders.get(name, 0) + size


def planned_input(
    found: Discovery, plan: WorkPlan, language_map: LanguageMap | None = None
) -> PlannedInput:
    """Sum the input of a run.

    A file that cannot be opened is unread, with the mean size of the others if its own is unknown.
    A file of unknown kind is no input, and only listed.
    """
    names = {name: use for name, use in found.all_names(True).items() if use.language is None}
    planned = PlannedInput(root=found.root, names=names, language_map=language_map or LanguageMap())
    paths: set[str] = set()
    for unit in plan.units:
        for file_range in unit.file_ranges:
            paths.add(file_range.path)
            planned._add(file_range.path, file_range.language, file_range.accounted_bytes)
            if file_range.problem is not None:
                account = RangeAccount(file_range)
                damage = damage_found_in_planning(file_range)
                assert damage.rejected is not None
                account.reject(damage, damage.rejected)
                loss = account.finish().loss
                assert loss is not None
                planned.damaged.append(loss)
    mean = max(1, planned.input_bytes // max(1, len(paths)))
    for file in found.unopened:
        size = mean if file.size is None else file.size
        paths.add(file.path)
        planned._add(file.path, file.language, size)
        planned.unopened.append(
            FileLoss(
                path=file.path,
                unread_bytes=size,
                languages={file.language or "": size},
                problem=file.reason,
            )
        )
    for path, size in found.unnamed.items():
        planned.input_bytes += size
        # Such a folder is not lost: it is to be read by a run of its own, or holds no text.
        planned.unnamed.append(
            FileLoss(path=path, unnamed_bytes=size, problem="its path names no language")
        )
    planned.files = len(paths)
    return planned
