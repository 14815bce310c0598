"""One source of a run: its plan, what earlier runs have left of it, and its summary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.errors import ResumeError, TextError, UserError
from mmbert.files import write_json
from mmbert_prep.executor.progress import files_being_read
from mmbert_prep.executor.storage import read_json
from mmbert_prep.executor.work_units import WorkPlan, plan_work_units
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.readers import RejectReason
from mmbert_prep.readers.discovery import Discovery, discover
from mmbert_prep.readers.rejection import ENCODING_REMEDY
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.encode import check_damaged_fraction, count_damaged
from mmbert_prep.shards.language_names import language_names, unused_overrides
from mmbert_prep.shards.languages import Languages, MergedLanguages, collect_languages
from mmbert_prep.shards.summary import DISABLED, Summary, ignored_files

# Marker file beside the intermediate shards: a worker disabled kitoken, in this or an earlier run.
DISABLED_MARKER = "accelerator-given-up"
# Intermediate shards of a finished source, of which only the hashes are needed.
_HASHES_ONLY = "hashes"


class SourceRun:
    """One source, from the view of one worker. `number`: its place among `total` sources."""

    def __init__(self, settings: PrepSettings, number: int, total: int) -> None:
        self.settings = settings
        self.workspace = Workspace(settings.output, settings.source)
        self.alone = total == 1
        self.number = number
        self.plan = WorkPlan(fingerprint="", units=(), settings={})
        self.finished = False
        self._kept_units: str | None = None
        self._found = Discovery()

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name the source in errors that the user can fix, if there are several sources."""
        try:
            yield
        except UserError as error:
            if self.alone:
                raise
            message = f"source {self.settings.source}: {error.message}"
            raise type(error)(message, remedy=error.remedy) from error

    def plan_work(self, console: Console, earlier: dict[str, str]) -> str:
        """Plan the work, on rank 0, and store the plan for the other workers.

        `earlier`: sources before this one -> their fingerprints. Return that of this source. Raises
        ResumeError if the source is finished with other input or settings.
        """
        settings = self.settings.model_copy(update={"earlier_sources": earlier})
        found = discover(settings)
        self._found = found
        for line in found.about_languages():
            console.print(line, soft_wrap=True, markup=False)
        plan = plan_work_units(found, settings)
        finished = self.summary()
        if finished is not None and finished.fingerprint != plan.fingerprint:
            if not settings.replace:
                raise ResumeError(
                    _difference(self.workspace.source, finished, plan), remedy=_REMEDY
                )
            finished = None
        self.workspace.create()
        suspects = files_being_read(self.workspace.progress)
        if suspects:
            console.print(
                f"the last run ended abruptly while reading {', '.join(suspects[:5])}; if "
                "that happens again, check these files",
                style="yellow",
            )
        if not self.workspace.plan.exists() or (
            read_json(self.workspace.plan).get("fingerprint") != plan.fingerprint
        ):
            self.workspace.remove_merge(None)
        write_json(
            self.workspace.plan,
            {
                **plan.model_dump(mode="json"),
                "finished": finished is not None,
                "kept_units": self.workspace.merged_units(),
            },
        )
        return plan.fingerprint

    def read_plan(self) -> None:
        """Read the plan that rank 0 has stored."""
        stored = read_json(self.workspace.plan)
        self.finished, self._kept_units = stored.pop("finished"), stored.pop("kept_units")
        self.plan = WorkPlan.model_validate(stored)

    def summary(self) -> Summary | None:
        """Return the summary of a finished run, or None."""
        if not self.workspace.summary.exists():
            return None
        return Summary.model_validate(read_json(self.workspace.summary))

    def units(self, description: TokenizerDescription, fast_encoder: str) -> Path:
        """Return the folder of the intermediate shards."""
        if self.finished and self._kept_units is not None:
            return self.workspace.root / self._kept_units
        if self.only_hashes:
            fast_encoder = _HASHES_ONLY
        return self.workspace.units(description.fingerprint, fast_encoder)

    @property
    def only_hashes(self) -> bool:
        """Whether later sources need only the hashes of this one, which is finished.

        What a token cap or the search for near-duplicates left out of this source is not taken. To
        know what that is, its documents are selected again, as they were encoded.
        """
        settings = self.settings
        others = settings.maximum_tokens_per_language, settings.near_duplicates
        return self.finished and others == (None, None)

    def collect(self, units: Path) -> None:
        """Combine the reports of all work units, on rank 0, and store the languages."""
        languages = collect_languages(self.plan, units)
        self._check(languages)
        if not self.workspace.is_merged_from(units):
            self.workspace.remove_merge(units)
        write_json(self.workspace.languages, languages.model_dump(mode="json"))

    def languages(self) -> Languages:
        """Read the languages that rank 0 has stored."""
        return Languages.model_validate(read_json(self.workspace.languages))

    def finish(
        self,
        merged: MergedLanguages,
        languages: Languages,
        tokenizer: str,
        fast_encoder: str,
        units: Path,
    ) -> Summary:
        """Write the summary, on rank 0, which marks the source as finished."""
        without_text = {
            key: counts.rejected
            for key, counts in sorted(languages.counts.items())
            if key not in languages.sections
        }
        summary = Summary(
            fingerprint=self.plan.fingerprint,
            settings=self.plan.settings,
            tokenizer=tokenizer,
            accelerator=DISABLED if (units / DISABLED_MARKER).exists() else fast_encoder,
            languages=merged.languages,
            without_text=dict(sorted({**without_text, **merged.without_text}.items())),
            damaged_files=languages.damaged,
            ignored_files=ignored_files(self._found),
            folders_without_language=self._found.without_language,
            duplicates_of={name: count for name, count in merged.duplicates_of.items() if count},
            language_names=language_names(self._found, languages, self.settings.language_map),
            unused_overrides=unused_overrides(self._found, languages),
        )
        write_json(self.workspace.summary, summary.stored())
        return summary

    def _check(self, languages: Languages) -> None:
        read = sum(counts.read for counts in languages.counts.values())
        damaged = sum(count_damaged(counts.rejected) for counts in languages.counts.values())
        check_damaged_fraction(damaged, read, self.settings.maximum_rejected_fraction)
        if not languages.sections:
            reasons: dict[RejectReason, int] = {}
            for counts in languages.counts.values():
                for reason, count in counts.rejected.items():
                    reasons[reason] = reasons.get(reason, 0) + count
            reasons_text = ", ".join(
                f"{reason} {count}" for reason, count in sorted(reasons.items())
            )
            files = "; ".join(languages.damaged[:3])
            others = f"; {ENCODING_REMEDY}" if RejectReason.INVALID_UTF8 in reasons else ""
            raise TextError(
                f"all documents of {self.settings.input} were rejected: {reasons_text}"
                + (f" ({files})" if files else ""),
                remedy="fix the input, or name its columns with --text-column and "
                "--language-column"
                + (", or select more with --where" if self.settings.where else "")
                + others,
            )


_REMEDY = (
    "use --replace to remake it from this input, another --source to add to it, or another output "
    "folder"
)


def _difference(folder: Path, finished: Summary, plan: WorkPlan) -> str:
    before, now = (dict(settings) for settings in (finished.settings, plan.settings))
    earlier = [_sources(settings.pop("earlier_sources", {})) for settings in (before, now)]
    changed = [
        f"{name} was {before.get(name)!r}, is now {now.get(name)!r}"
        for name in dict.fromkeys((*now, *before))
        if before.get(name) != now.get(name)
    ]
    if list(earlier[0]) != list(earlier[1]):
        names = [", ".join(each) or "none" for each in earlier]
        changed.append(f"earlier sources were {names[0]}, are now {names[1]}")
    elif earlier[0] != earlier[1]:
        others = [name for name in earlier[0] if earlier[0][name] != earlier[1][name]]
        changed.append(f"the earlier source {others[0]} has changed")
    difference = "; ".join(changed) if changed else "the input has changed"
    return f"{folder} was made from other input or settings: {difference}"


def _sources(value: object) -> dict[str, str]:
    assert isinstance(value, dict)
    return value
