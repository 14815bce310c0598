"""Preprocessing pipeline. Every worker runs all stages and claims a part of their tasks."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

from mmbert.command_line.console import PlainConsole
from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.errors import PackageError
from mmbert.files import explained_write_errors, make_folder
from mmbert_prep.executor.lock import lock_witness, output_lock
from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.work_units import WorkPlan, WorkUnit
from mmbert_prep.executor.workers import WorkerGroup
from mmbert_prep.filters.cleaning import Cleaner
from mmbert_prep.filters.signatures import open_hasher
from mmbert_prep.losses.ledger import LossLedger, SurveyLedger
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.encode import UnitEncoder
from mmbert_prep.shards.intermediate import is_done
from mmbert_prep.shards.languages import LanguageMerger
from mmbert_prep.shards.summary import Summary, print_summary, print_totals
from mmbert_prep.source_run import DISABLED_MARKER, SourceRun
from mmbert_prep.tokenization.encoders import SentencePieceEncoder, open_encoder
from mmbert_prep.tokenization.fast_encoder import (
    BatchEncoder,
    FastEncoder,
    ReferenceEncoder,
    fast_encoder_installed,
)
from mmbert_prep.tokenization.hashes_only import HashesOnly
from mmbert_prep.tokenization.stage import TokenizerStage


def preprocess(group: WorkerGroup, settings: PrepSettings) -> Summary | None:
    """Run the pipeline for one source as one worker of a group; rank 0 returns the summary.

    Resumes an interrupted run. Raises UserError for errors that the user can fix.
    """
    summaries = preprocess_sources(group, (settings,))
    return summaries[0] if summaries else None


def preprocess_sources(group: WorkerGroup, sources: Sequence[PrepSettings]) -> list[Summary]:
    """Run the pipeline for sources of one output folder; rank 0 returns their summaries.

    The sources differ in `source` and `input` only, and share a tokenizer that is trained on all.
    A document that an earlier source has in the same language is dropped (`settings.deduplicate`).
    Resumes an interrupted run; finished sources stay as they are.
    """
    run = _Pipeline(group, sources)
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained_write_errors(sources[0].output))
        if group.rank == 0:
            make_folder(run.workspace.lock.parent)
            run.stages.owner = stack.enter_context(output_lock(run.workspace.lock))
            run.plan_work()
        group.barrier()
        if group.rank:
            run.stages.owner = lock_witness(run.workspace.lock)
        return run.run()


class _Pipeline:
    def __init__(self, group: WorkerGroup, sources: Sequence[PrepSettings]) -> None:
        self.group, self.settings = group, sources[0]
        self.sources = [
            SourceRun(settings, number, len(sources)) for number, settings in enumerate(sources)
        ]
        # Claims and progress of all sources are in the folder of the first one.
        self.workspace = self.sources[0].workspace
        self.is_rank_zero = group.rank == 0
        self.console = PlainConsole(stderr=True)
        self.stages = Stages(group, self.workspace, self.console)

    def plan_work(self) -> None:
        if self.settings.near_duplicates is not None:
            open_hasher()  # before anything is read
        earlier: dict[str, str] = {}
        for source in self.sources:
            with source.named():
                fingerprint = source.plan_work(self.console, dict(earlier))
            earlier[source.settings.source] = fingerprint
        self.stages.begin()

    def run(self) -> list[Summary]:
        for source in self.sources:
            source.read_plan()
        unfinished = [source.number for source in self.sources if not source.finished]
        if unfinished:
            # Later sources are compared with a finished one, but not the other way round.
            self._make(self.sources[: max(unfinished) + 1])
        summaries = self._summaries()
        self.group.barrier()
        if self.is_rank_zero:
            for source in self.sources:
                source.workspace.remove()
            self._print(summaries)
        return summaries

    def _summaries(self) -> list[Summary]:
        if not self.is_rank_zero:
            return []
        found = [source.summary() for source in self.sources]
        return [summary for summary in found if summary is not None]

    def _print(self, summaries: list[Summary]) -> None:
        for source, summary in zip(self.sources, summaries, strict=True):
            if not source.alone:
                self.console.print(
                    f"source {source.settings.source}:", soft_wrap=True, markup=False
                )
            if source.finished:
                self.console.print("already finished with the same input and settings")
            print_summary(self.console, summary, source.workspace.source)
        if len(summaries) > 1:
            print_totals(self.console, summaries)

    def _make(self, sources: list[SourceRun]) -> None:
        """Make all sources that are not finished; `sources` ends with one of them."""
        description = self._tokenizer()
        fast_encoder = self._choose_fast_encoder(description)
        units = [source.units(description, fast_encoder) for source in sources]
        for folder in units:
            make_folder(folder)
        self._encode(sources, description, fast_encoder)
        mergers: list[LanguageMerger] = []
        for source, folder in zip(sources, units, strict=True):
            with source.named():
                if self.is_rank_zero:
                    source.collect(folder)
                self.group.barrier()
                languages = source.languages()
                merger = LanguageMerger(
                    self.stages,
                    source.settings,
                    source.workspace,
                    languages,
                    description,
                    folder,
                    mergers.copy(),
                )
                merger.select()
                if not source.finished:
                    merged = merger.publish()
                    if self.is_rank_zero:
                        self.stages.owner.check()
                        source.finish(
                            merged, languages, description.fingerprint, fast_encoder, folder
                        )
                mergers.append(merger)

    def _tokenizer(self) -> TokenizerDescription:
        """Provide the tokenizer, which all sources share; if it is trained, on text of all."""
        units: dict[str, WorkUnit] = {
            unit.key: unit for source in self.sources for unit in source.plan.units
        }
        joined = "".join(source.plan.fingerprint for source in self.sources)
        plan = WorkPlan(
            fingerprint=hashlib.sha256(joined.encode()).hexdigest(),
            units=tuple(units.values()),
            settings={},
        )
        inputs = ", ".join(source.settings.input for source in self.sources)
        settings = self.settings.model_copy(update={"input": inputs})
        stage = TokenizerStage(
            self.stages, settings, self.workspace, self.console, self._survey_ledger
        )
        if len(self.sources) == 1:
            return stage.run(plan)
        # How much of a unit is sampled depends on all sources.
        samples = self.workspace.samples.with_name(f"survey-{plan.fingerprint[:12]}")
        return stage.run(plan, samples)

    def _survey_ledger(self) -> SurveyLedger:
        ledgers: dict[str, list[LossLedger]] = {}
        for source in self.sources:
            ledger = source.ledger("survey", self.group.size)
            for unit in source.plan.units:
                ledgers.setdefault(unit.key, []).append(ledger)
        return SurveyLedger(ledgers)

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
        self, sources: list[SourceRun], description: TokenizerDescription, fast_encoder: str
    ) -> None:
        folders = [source.units(description, fast_encoder) for source in sources]
        tasks = [
            (source, folder, unit)
            for source, folder in zip(sources, folders, strict=True)
            for unit in source.plan.units
        ]
        weights = [unit.input_bytes for _, _, unit in tasks]
        done = sum(unit.input_bytes for _, folder, unit in tasks if is_done(folder, unit.key))
        with self.stages.stage("encode", "encoding", sum(weights), done) as meter:
            encoder = self._batch_encoder([unit for _, _, unit in tasks], fast_encoder)
            cleaner = Cleaner(self.settings)
            encoders = [
                UnitEncoder(
                    source.settings,
                    HashesOnly(encoder.reference) if source.only_hashes else encoder,
                    folder,
                    meter,
                    self.group,
                    source.ledger(f"read-{folder.name}", self.group.size),
                    cleaner,
                )
                for source, folder in zip(sources, folders, strict=True)
            ]
            names = [f"{source.number}-{unit.key}" for source, _, unit in tasks]
            for index in self.stages.claim_tasks(names, weights):
                source, folder, unit = tasks[index]
                if is_done(folder, unit.key):
                    continue
                with source.named():
                    encoders[source.number].run(unit)
                if isinstance(encoder, FastEncoder) and not encoder.enabled:
                    (folder / DISABLED_MARKER).touch()

    def _batch_encoder(self, units: list[WorkUnit], fast_encoder: str) -> BatchEncoder:
        reference = open_encoder(self.workspace.tokenizer)
        if fast_encoder == "none":
            return ReferenceEncoder(reference)
        assert isinstance(reference, SentencePieceEncoder)
        # Workers start with consecutive units, so one worker encodes most of a small language.
        per_worker = sum(unit.input_bytes for unit in units) // self.group.size
        expected: dict[str, int] = {}
        for unit in units:
            for file_range in unit.file_ranges:
                if file_range.language is not None:
                    known = expected.get(file_range.language, 0)
                    expected[file_range.language] = min(per_worker, known + file_range.input_bytes)
        model = (self.workspace.tokenizer / "tokenizer.model").read_bytes()
        return FastEncoder(reference, model, expected)
