"""Preprocessing pipeline. Every worker runs all stages and claims a part of their tasks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console

from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.errors import PackageError, ResumeError, TextError
from mmbert.files import explained_write_errors, make_folder, write_json
from mmbert_prep.executor.lock import output_lock
from mmbert_prep.executor.progress import files_being_read
from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.storage import read_json
from mmbert_prep.executor.work_units import WorkPlan, plan_work_units
from mmbert_prep.executor.workers import WorkerGroup
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.losses.ledger import LossLedger, check_losses, planned_losses
from mmbert_prep.losses.limits import DocumentCounts, Losses
from mmbert_prep.losses.plan import PlannedInput, planned_input
from mmbert_prep.readers import RejectReason
from mmbert_prep.readers.discovery import discover
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.encode import UnitEncoder
from mmbert_prep.shards.intermediate import is_done
from mmbert_prep.shards.languages import LanguageMerger, Languages, collect_languages
from mmbert_prep.shards.summary import DISABLED, Summary, ignored_files, print_summary
from mmbert_prep.tokenization.encoders import SentencePieceEncoder, open_encoder
from mmbert_prep.tokenization.fast_encoder import (
    BatchEncoder,
    FastEncoder,
    ReferenceEncoder,
    fast_encoder_installed,
)
from mmbert_prep.tokenization.stage import TokenizerStage


def preprocess(group: WorkerGroup, settings: PrepSettings) -> Summary | None:
    """Run the pipeline as one worker of a group; rank 0 returns the summary.

    Resumes an interrupted run. Raises UserError for errors that the user can fix.
    """
    run = _Pipeline(group, settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained_write_errors(settings.output))
        if group.rank == 0:
            make_folder(run.workspace.lock.parent)
            stack.enter_context(output_lock(run.workspace.lock))
            run.plan_work()
        group.barrier()
        return run.run()


# Marker file beside the intermediate shards: a worker disabled kitoken, in this or an earlier run.
_DISABLED_MARKER = "accelerator-given-up"


class _Pipeline:
    def __init__(self, group: WorkerGroup, settings: PrepSettings) -> None:
        self.group, self.settings = group, settings
        self.workspace = Workspace(settings.output, settings.source)
        self.is_rank_zero = group.rank == 0
        self.console = Console(stderr=True)
        self.stages = Stages(group, self.workspace, self.console)
        self.ignored: dict[str, list[str]] = {}
        self.without_language: list[str] = []

    def plan_work(self) -> None:
        found = discover(self.settings)
        self.ignored = ignored_files(found)
        self.without_language = found.without_language
        plan = plan_work_units(found, self.settings)
        finished = self._finished()
        if finished is not None and finished.fingerprint != plan.fingerprint:
            if not self.settings.replace:
                raise ResumeError(
                    _difference(self.workspace.source, finished, plan), remedy=_REMEDY
                )
            finished = None
        self.workspace.create()
        suspects = files_being_read(self.workspace.progress)
        if suspects:
            self.console.print(
                f"[yellow]the last run ended abruptly while reading {', '.join(suspects[:5])}; if "
                "that happens again, check these files[/]",
                soft_wrap=True,
            )
        if not self.workspace.plan.exists() or (
            read_json(self.workspace.plan).get("fingerprint") != plan.fingerprint
        ):
            self.workspace.remove_merge(None)
        write_json(
            self.workspace.plan,
            {**plan.model_dump(mode="json"), "finished": finished is not None},
        )
        planned = planned_input(found, plan)
        write_json(self.workspace.losses / "planned.json", planned.model_dump(mode="json"))
        if finished is None:
            losses = planned_losses(planned)
            losses.add(planned.damaged)
            check_losses(losses, planned, self.settings)
        self.stages.begin()

    def _finished(self) -> Summary | None:
        if not self.workspace.summary.exists():
            return None
        return Summary.model_validate(read_json(self.workspace.summary))

    def run(self) -> Summary | None:
        stored = read_json(self.workspace.plan)
        if stored.pop("finished"):
            summary = self._finished()
            if self.is_rank_zero:
                assert summary is not None
                self.console.print("already finished with the same input and settings")
                print_summary(self.console, summary, self.workspace.source)
                self.group.barrier()
                self.workspace.remove()
                return summary
            self.group.barrier()
            return None
        plan = WorkPlan.model_validate(stored)
        planned = PlannedInput.model_validate(read_json(self.workspace.losses / "planned.json"))
        description = TokenizerStage(
            self.stages, self.settings, self.workspace, self.console, planned
        ).run(plan)
        fast_encoder = self._choose_fast_encoder(description)
        units = self.workspace.units(description.fingerprint, fast_encoder)
        self._encode(plan, units, fast_encoder, planned)
        if self.is_rank_zero:
            languages = collect_languages(plan, units)
            self._check(languages, planned)
            if not self.workspace.is_merged_from(units):
                self.workspace.remove_merge(units)
            write_json(self.workspace.languages, languages.model_dump(mode="json"))
        self.group.barrier()
        languages = Languages.model_validate(read_json(self.workspace.languages))
        summaries = LanguageMerger(
            self.stages, self.settings, self.workspace, languages, description, units
        ).run()
        if not self.is_rank_zero:
            self.group.barrier()
            return None
        summary = Summary(
            fingerprint=plan.fingerprint,
            settings=plan.settings,
            tokenizer=description.fingerprint,
            accelerator=DISABLED if (units / _DISABLED_MARKER).exists() else fast_encoder,
            languages=summaries,
            without_text={
                key: counts.rejected
                for key, counts in sorted(languages.counts.items())
                if key not in languages.sections
            },
            damaged_files=languages.damaged,
            ignored_files=self.ignored,
            folders_without_language=self.without_language,
            **_stored_losses(languages, planned),
        )
        write_json(self.workspace.summary, summary.stored())
        self.group.barrier()
        self.workspace.remove()
        print_summary(self.console, summary, self.workspace.source)
        return summary

    def _choose_fast_encoder(self, description: TokenizerDescription) -> str:
        """Return the fast encoder to use: "kitoken" or "none"."""
        wanted = self.settings.fast_encoder
        if wanted == "none":
            return "none"
        if description.kind == "sentencepiece" and fast_encoder_installed():
            return "kitoken"
        if wanted == "kitoken":
            raise PackageError(
                "--fast-encoder kitoken: kitoken is not installed, or the tokenizer is not a "
                "SentencePiece model",
                remedy="pip install 'mmbert-train[fast]', or use --fast-encoder auto",
            )
        return "none"

    def _encode(
        self, plan: WorkPlan, folder: Path, fast_encoder: str, planned: PlannedInput
    ) -> None:
        make_folder(folder)
        done = sum(unit.input_bytes for unit in plan.units if is_done(folder, unit.key))
        with self.stages.stage("encode", "encoding", plan.input_bytes, done) as meter:
            ledger = LossLedger(
                self.workspace.losses,
                f"read-{folder.name}",
                [unit.key for unit in plan.units],
                planned,
                self.settings,
                self.group.size,
            )
            encoder = self._batch_encoder(plan, fast_encoder)
            units = UnitEncoder(self.settings, encoder, folder, meter, self.group, ledger)
            for index in self.stages.claim_units(plan):
                if not is_done(folder, plan.units[index].key):
                    units.run(plan.units[index])
                    if isinstance(encoder, FastEncoder) and not encoder.enabled:
                        (folder / _DISABLED_MARKER).touch()

    def _batch_encoder(self, plan: WorkPlan, fast_encoder: str) -> BatchEncoder:
        reference = open_encoder(self.workspace.tokenizer)
        if fast_encoder == "none":
            return ReferenceEncoder(reference)
        assert isinstance(reference, SentencePieceEncoder)
        # Workers start with consecutive units, so one worker encodes most of a small language.
        per_worker = plan.input_bytes // self.group.size
        expected: dict[str, int] = {}
        for unit in plan.units:
            for file_range in unit.file_ranges:
                if file_range.language is not None:
                    known = expected.get(file_range.language, 0)
                    expected[file_range.language] = min(per_worker, known + file_range.input_bytes)
        model = (self.workspace.tokenizer / "tokenizer.model").read_bytes()
        return FastEncoder(reference, model, expected)

    def _check(self, languages: Languages, planned: PlannedInput) -> None:
        losses = _sum_losses(languages, planned)
        documents = DocumentCounts(
            read=sum(counts.read for counts in languages.counts.values()),
            damaged=sum(counts.damaged for counts in languages.counts.values()),
            unnamed=sum(
                counts.rejected.get(RejectReason.MISSING_LANGUAGE, 0)
                for counts in languages.counts.values()
            ),
        )
        sizes = {language: counts.input_bytes for language, counts in languages.counts.items()}
        for loss in planned.unopened:
            for language, size in loss.languages.items():
                sizes[language] = sizes.get(language, 0) + size
        check_losses(losses, planned, self.settings, documents, sizes)
        if not languages.sections:
            reasons: dict[RejectReason, int] = {}
            for counts in languages.counts.values():
                for reason, count in counts.rejected.items():
                    reasons[reason] = reasons.get(reason, 0) + count
            reasons_text = ", ".join(
                f"{reason} {count}" for reason, count in sorted(reasons.items())
            )
            files = "; ".join(languages.damaged[:3])
            raise TextError(
                f"all documents of {self.settings.input} were rejected: {reasons_text}"
                + (f" ({files})" if files else ""),
                remedy="fix the input, or name its columns with --text-column and "
                "--language-column",
            )


_REMEDY = (
    "use --replace to remake it from this input, another --source to add to it, or another output "
    "folder"
)


def _sum_losses(languages: Languages, planned: PlannedInput) -> Losses:
    losses = planned_losses(planned)
    losses.add(languages.losses)
    return losses


def _stored_losses(languages: Languages, planned: PlannedInput) -> dict[str, Any]:
    """Return the fields of the summary about what was lost."""
    losses = _sum_losses(languages, planned)
    files = sorted(losses.files.values(), key=lambda loss: (-loss.lost_bytes, loss.path))
    return {
        "input_bytes": planned.input_bytes if losses.unread_bytes or losses.unnamed_bytes else 0,
        "unread_bytes": {key: size for key, size in sorted(losses.languages.items()) if size},
        "unnamed_bytes": losses.unnamed_bytes,
        "losses": files,
    }


def _difference(folder: Path, finished: Summary, plan: WorkPlan) -> str:
    changed = [
        f"{name} was {finished.settings.get(name)!r}, is now {value!r}"
        for name, value in plan.settings.items()
        if finished.settings.get(name) != value
    ]
    difference = "; ".join(changed) if changed else "the input has changed"
    return f"{folder} was made from other input or settings: {difference}"
