"""Merging of all work units into languages: select documents, write shards, publish."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from mmbert.data.shards.manifest import MANIFEST_NAME, Shard, read_manifest
from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.errors import TextError
from mmbert.files import atomic_write, make_folder, sync_folder, write_json
from mmbert_prep.executor.progress import Meter
from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.storage import read_json
from mmbert_prep.executor.work_units import WorkPlan
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.readers import RejectReason
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.deduplicate_and_split import (
    LanguageSections,
    Selection,
    ShardPlan,
    near_duplicates_of,
    select,
)
from mmbert_prep.shards.earlier_sources import EarlierSource, find_in_earlier_sources
from mmbert_prep.shards.intermediate import LanguageCounts, Section, read_unit_report
from mmbert_prep.shards.merge import StagedLanguage, finish_language, is_published, write_shard
from mmbert_prep.shards.summary import LanguageSummary, summarize_language


class Languages(BaseModel):
    """Sections and counts of all languages, from the reports of all work units."""

    sections: dict[str, list[tuple[str, Section]]] = Field(default_factory=dict)
    counts: dict[str, LanguageCounts] = Field(default_factory=dict)
    damaged: list[str] = Field(default_factory=list)
    written: dict[str, int] = Field(default_factory=dict)
    """What language columns have instead of a key -> documents."""

    def sections_of(self, language: str) -> LanguageSections:
        """Return the sections of a language."""
        return LanguageSections(language, tuple(self.sections[language]))


def collect_languages(plan: WorkPlan, units: Path) -> Languages:
    """Combine the reports of all work units, in the order of the plan."""
    languages = Languages()
    for unit in plan.units:
        report = read_unit_report(units, unit.key)
        for section in report.sections:
            languages.sections.setdefault(section.language, []).append((unit.key, section))
        for file_range in unit.file_ranges:  # also report languages without documents
            if file_range.language is not None:
                languages.counts.setdefault(file_range.language, LanguageCounts())
        for language, counts in report.counts.items():
            languages.counts.setdefault(language, LanguageCounts()).add(counts)
        languages.damaged += report.damaged
        for written, documents in report.written_languages.items():
            languages.written[written] = languages.written.get(written, 0) + documents
    return languages


@dataclass
class MergedLanguages:
    """The languages of a source after merging."""

    languages: dict[str, LanguageSummary] = field(default_factory=dict)
    without_text: dict[str, dict[RejectReason, int]] = field(default_factory=dict)
    """Language of which earlier sources have all documents -> count per reason."""
    duplicates_of: dict[str, int] = field(default_factory=dict)
    """Earlier source -> documents that were dropped because it has them, in their order."""

    def count(self, duplicates_of: dict[str, int]) -> None:
        """Add the duplicates of a language."""
        for name, documents in duplicates_of.items():
            self.duplicates_of[name] += documents


class LanguageMerger:
    """Merges intermediate shards into languages.

    Each step stores its results in the workspace, where a rerun resumes.
    """

    def __init__(
        self,
        stages: Stages,
        settings: PrepSettings,
        workspace: Workspace,
        languages: Languages,
        description: TokenizerDescription,
        units: Path,
        earlier: Sequence[LanguageMerger] = (),
    ) -> None:
        self._stages, self._settings, self._workspace = stages, settings, workspace
        self._languages, self._description = languages, description
        self._units = units
        self._earlier = earlier
        self._names = sorted(languages.sections)

    def select(self) -> None:
        """Run this worker's tasks of the first step: assign every document.

        The earlier sources must have done so.
        """
        documents = [self._languages.sections_of(name).documents for name in self._names]
        with self._stages.stage("select", "selecting", sum(documents)) as meter:
            for index in self._stages.claim_tasks(self._names, documents):
                self._select(self._names[index])
                meter.add(progress=documents[index])

    def publish(self) -> MergedLanguages:
        """Run this worker's tasks of the other steps; return the summaries of all languages.

        Raises TextError if earlier sources have all documents.
        """
        merged = self._without_documents()
        if not self._names:
            if self._stages.is_rank_zero:
                raise _nothing_left(merged.duplicates_of)
            self._stages.group.barrier()  # rank 0 raises
        documents = [self._languages.sections_of(name).documents for name in self._names]
        tasks = list(self._shards())
        weights = [shard.last - shard.first for _, shard in tasks]
        with self._stages.stage("shards", "writing shards", sum(weights)) as meter:
            names = [f"{language}.{shard.name}" for language, shard in tasks]
            for index in self._stages.claim_tasks(names, weights):
                self._write(*tasks[index], meter)
        with self._stages.stage("publish", "finishing", len(self._names)) as meter:
            for index in self._stages.claim_tasks(self._names, documents):
                self._finish(self._names[index])
                meter.add(progress=1)
        if self._stages.is_rank_zero:
            self._remove_stale_languages()
        for name in self._names:
            manifest = read_manifest(self._workspace.source / name)
            merged.languages[name] = summarize_language(manifest, self._languages.counts[name])
            merged.count(manifest.duplicates_of)
        return merged

    def _without_documents(self) -> MergedLanguages:
        """Leave out the languages of which earlier sources have all documents."""
        sources = [each._settings.source for each in self._earlier]
        merged = MergedLanguages(duplicates_of=dict.fromkeys(sources, 0))
        if not self._earlier:
            return merged
        for name in self._names:
            selection = self._selection(name)
            if not any(documents for documents, _, _ in selection.totals.values()):
                merged.without_text[name] = self._rejected(name, selection)
                merged.count(selection.duplicates_of)
        self._names = [name for name in self._names if name not in merged.without_text]
        return merged

    def _rejected(self, language: str, selection: Selection) -> dict[RejectReason, int]:
        rejected = dict(self._languages.counts[language].rejected)
        for reason, count in selection.dropped.items():
            rejected[reason] = rejected.get(reason, 0) + count
        return rejected

    def _as_earlier(self, language: str) -> EarlierSource | None:
        if language not in self._languages.sections:
            return None
        return EarlierSource(
            self._settings.source,
            self._languages.sections_of(language),
            self._units,
            self._workspace.merge / f"{language}.npy",
        )

    def _remove_stale_languages(self) -> None:
        """Remove languages of a replaced run that this run does not have."""
        for manifest in sorted(self._workspace.source.glob(f"*/{MANIFEST_NAME}")):
            if manifest.parent.name not in self._names:
                manifest.unlink()  # hides the folder first: its removal may be interrupted
                sync_folder(manifest.parent)
                shutil.rmtree(manifest.parent)

    def _select(self, language: str) -> None:
        path = self._workspace.merge / f"{language}.json"
        if path.exists():
            return
        sections = self._languages.sections_of(language)
        sources = [each._as_earlier(language) for each in self._earlier]
        earlier = [source for source in sources if source is not None]
        found = find_in_earlier_sources(sections, self._units, earlier) if earlier else None
        selection = select(sections, self._units, self._settings, found)
        with atomic_write(self._workspace.merge / f"{language}.npy") as file:
            np.save(file, selection.statuses)
        shards = [[shard.name, shard.first, shard.last] for shard in selection.shards]
        write_json(
            path,
            {
                "shards": shards,
                "totals": selection.totals,
                "dropped": selection.dropped,
                "duplicates_of": selection.duplicates_of,
            },
        )

    def _selection(self, language: str) -> Selection:
        stored = read_json(self._workspace.merge / f"{language}.json")
        statuses = np.load(self._workspace.merge / f"{language}.npy", mmap_mode="r")
        shards = [ShardPlan(*shard) for shard in stored["shards"]]
        totals = {split: tuple(values) for split, values in stored["totals"].items()}
        dropped = {RejectReason(reason): count for reason, count in stored["dropped"].items()}
        return Selection(statuses, dropped, shards, totals, stored.get("duplicates_of", {}))

    def _shards(self) -> Iterator[tuple[str, ShardPlan]]:
        for language in self._names:
            for shard in self._selection(language).shards:
                yield language, shard

    def _entry(self, language: str, shard: str) -> Path:
        return self._workspace.merge / f"{language}.{shard}.json"

    def _write(self, language: str, shard: ShardPlan, meter: Meter) -> None:
        if self._entry(language, shard.name).exists():
            return
        folder = self._workspace.staging / language
        make_folder(folder)
        entry = write_shard(
            self._languages.sections_of(language),
            self._selection(language),
            shard,
            self._units,
            folder,
            self._description.vocabulary_size,
            meter,
        )
        write_json(self._entry(language, shard.name), entry.model_dump(mode="json"))

    def _finish(self, language: str) -> None:
        paths = self._workspace.language(language)
        if is_published(paths):
            return
        selection = self._selection(language)
        staged = StagedLanguage(
            source=self._settings.source,
            language=language,
            paths=paths,
            shards=[
                Shard.model_validate(read_json(self._entry(language, shard.name)))
                for shard in selection.shards
            ],
            totals=selection.totals,
            documents_read=self._languages.counts[language].read,
            rejected=self._rejected(language, selection),
            duplicates_of=selection.duplicates_of,
            near_duplicates=near_duplicates_of(self._settings),
        )
        self._stages.owner.check()
        finish_language(staged, self._description, self._settings.contexts)


def _nothing_left(duplicates_of: dict[str, int]) -> TextError:
    sources = ", ".join(f"{name} {count:,}" for name, count in duplicates_of.items() if count)
    return TextError(
        f"earlier sources have all of its documents ({sources})",
        remedy="leave this source out, give it before the others, or use --no-deduplicate",
    )
