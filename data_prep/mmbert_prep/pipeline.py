"""The offline pipeline, stage by stage: every worker runs this program and shares its work."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.console import Console

from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.errors import UserError
from mmbert.files import explained_write_errors, make_folder, write_json
from mmbert_prep.executor.lock import output_lock
from mmbert_prep.executor.progress import files_being_read
from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.storage import read_json
from mmbert_prep.executor.work_units import Plan, plan_units
from mmbert_prep.executor.workers import Team
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.readers.discovery import discover
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.encode import UnitEncoder, bad_documents, check_share
from mmbert_prep.shards.languages import LanguageMerger, Languages, collect_languages
from mmbert_prep.shards.parts import is_done
from mmbert_prep.shards.summary import GIVEN_UP, Summary, ignored_files, print_summary
from mmbert_prep.tokenization.accelerator import (
    AcceleratedEncoder,
    BatchEncoder,
    PlainEncoder,
    accelerator_installed,
)
from mmbert_prep.tokenization.encoders import SentencePieceEncoder, open_encoder
from mmbert_prep.tokenization.stage import TokenizerStage


def preprocess(team: Team, settings: PrepSettings) -> Summary | None:
    """Run the pipeline as one worker of a team; the leader (rank 0) returns the summary.

    Running again continues where an earlier run stopped. Raises UserError for everything that the
    user can mend.
    """
    run = _Run(team, settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained_write_errors(settings.output))
        if team.rank == 0:
            make_folder(run.space.lock.parent)
            stack.enter_context(output_lock(run.space.lock))
            run.plan_work()
        team.barrier()
        return run.everything()


# Beside the parts: a worker found kitoken to differ; lasts from one start to the next.
_GIVEN_UP_MARK = "accelerator-given-up"


class _Run:
    def __init__(self, team: Team, settings: PrepSettings) -> None:
        self.team, self.settings = team, settings
        self.space = Workspace(settings)
        self.leader = team.rank == 0
        self.console = Console(stderr=True)
        self.stages = Stages(team, self.space, self.console)
        self.ignored: dict[str, list[str]] = {}

    def plan_work(self) -> None:
        found = discover(self.settings)
        self.ignored = ignored_files(found)
        plan = plan_units(found, self.settings)
        finished = self._finished()
        if finished is not None and finished.fingerprint != plan.fingerprint:
            if not self.settings.replace:
                raise UserError(_difference(self.space.source, finished, plan), remedy=_REMEDY)
            finished = None
        self.space.create()
        suspects = files_being_read(self.space.progress)
        if suspects:
            self.console.print(
                f"[yellow]the last run ended abruptly while it read {', '.join(suspects[:5])}: "
                "should it happen again, look at these files[/]",
                soft_wrap=True,
            )
        if not self.space.plan.exists() or (
            read_json(self.space.plan).get("fingerprint") != plan.fingerprint
        ):
            self.space.remove_merge(None)
        write_json(
            self.space.plan,
            {**plan.model_dump(mode="json"), "finished": finished is not None},
        )
        self.stages.begin()

    def _finished(self) -> Summary | None:
        if not self.space.summary.exists():
            return None
        return Summary.model_validate(read_json(self.space.summary))

    def everything(self) -> Summary | None:
        stored = read_json(self.space.plan)
        if stored.pop("finished"):
            summary = self._finished()
            if self.leader:
                assert summary is not None
                self.console.print("already done: same input, same settings")
                print_summary(self.console, summary, self.space.source)
                self.team.barrier()
                self.space.remove()
                return summary
            self.team.barrier()
            return None
        plan = Plan.model_validate(stored)
        description = TokenizerStage(self.stages, self.settings, self.space, self.console).run(plan)
        accelerator = self._accelerator(description)
        units = self.space.units(description.fingerprint, accelerator)
        self._encode(plan, units, accelerator)
        if self.leader:
            languages = collect_languages(plan, units)
            self._check(languages)
            if not self.space.merges(units):
                self.space.remove_merge(units)
            write_json(self.space.languages, languages.model_dump(mode="json"))
        self.team.barrier()
        languages = Languages.model_validate(read_json(self.space.languages))
        summaries = LanguageMerger(
            self.stages, self.settings, self.space, languages, description, units
        ).run()
        if not self.leader:
            self.team.barrier()
            return None
        summary = Summary(
            fingerprint=plan.fingerprint,
            settings=plan.settings,
            tokenizer=description.fingerprint,
            accelerator=GIVEN_UP if (units / _GIVEN_UP_MARK).exists() else accelerator,
            languages=summaries,
            without_text={
                key: counts.rejected
                for key, counts in sorted(languages.counts.items())
                if key not in languages.sections
            },
            damaged_files=languages.damaged,
            ignored_files=self.ignored,
        )
        write_json(self.space.summary, summary.model_dump(mode="json"))
        self.team.barrier()
        self.space.remove()
        print_summary(self.console, summary, self.space.source)
        return summary

    def _accelerator(self, description: TokenizerDescription) -> str:
        """The accelerator that is tried: kitoken, or none."""
        wanted = self.settings.accelerator
        if wanted == "none":
            return "none"
        if description.kind == "sentencepiece" and accelerator_installed():
            return "kitoken"
        if wanted == "kitoken":
            raise UserError(
                "kitoken is not installed, or the tokenizer is not a SentencePiece model",
                remedy="pip install 'mmbert-train[fast]', or give --accelerator auto",
            )
        return "none"

    def _encode(self, plan: Plan, folder: Path, accelerator: str) -> None:
        make_folder(folder)
        done = sum(unit.weight for unit in plan.units if is_done(folder, unit.key))
        with self.stages.stage("encode", "encoding", plan.weight, done) as meter:
            encoder = self._batch_encoder(plan, accelerator)
            units = UnitEncoder(self.settings, encoder, folder, meter, self.team)
            for index in self.stages.claimed_units(plan):
                if not is_done(folder, plan.units[index].key):
                    units.run(plan.units[index])
                    if isinstance(encoder, AcceleratedEncoder) and not encoder.trusted:
                        (folder / _GIVEN_UP_MARK).touch()

    def _batch_encoder(self, plan: Plan, accelerator: str) -> BatchEncoder:
        reference = open_encoder(self.space.tokenizer)
        if accelerator == "none":
            return PlainEncoder(reference)
        assert isinstance(reference, SentencePieceEncoder)
        # A worker begins with neighbouring units: of a small language one worker sees everything.
        most = plan.weight // self.team.size
        expected: dict[str, int] = {}
        for unit in plan.units:
            for segment in unit.segments:
                if segment.language is not None:
                    known = expected.get(segment.language, 0)
                    expected[segment.language] = min(most, known + segment.weight)
        model = (self.space.tokenizer / "tokenizer.model").read_bytes()
        return AcceleratedEncoder(reference, model, expected)

    def _check(self, languages: Languages) -> None:
        read = sum(counts.read for counts in languages.counts.values())
        bad = sum(bad_documents(counts.rejected) for counts in languages.counts.values())
        check_share(bad, read, self.settings.maximum_rejected_share)
        if not languages.sections:
            reasons: dict[str, int] = {}
            for counts in languages.counts.values():
                for reason, count in counts.rejected.items():
                    reasons[reason] = reasons.get(reason, 0) + count
            told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            files = "; ".join(languages.damaged[:3])
            raise UserError(
                f"nothing of {self.settings.input} is left: {told}"
                + (f" ({files})" if files else ""),
                remedy="mend the input, or name its columns with --text-column and "
                "--language-column",
            )


_REMEDY = (
    "give --replace to make it again from this input, another --source to add to it, or another "
    "output folder"
)


def _difference(folder: Path, finished: Summary, plan: Plan) -> str:
    changed = [
        f"{name} was {finished.settings.get(name)!r}, is {value!r}"
        for name, value in plan.settings.items()
        if finished.settings.get(name) != value
    ]
    why = "; ".join(changed) if changed else "the input has changed since"
    return f"{folder} is finished, but not from this: {why}"
