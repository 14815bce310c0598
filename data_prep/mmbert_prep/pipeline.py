"""The offline pipeline, stage by stage: every worker runs this program and shares its work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from mmbert.data.tokenizer import TokenizerDescription, read_tokenizer_description
from mmbert.errors import UserError
from mmbert_prep.cleaning import Cleaner
from mmbert_prep.discovery import discover
from mmbert_prep.encode import UnitEncoder, bad_documents, check_share
from mmbert_prep.languages import LanguageMerger, Languages, collect_languages
from mmbert_prep.lock import output_lock
from mmbert_prep.parts import is_done
from mmbert_prep.settings import DEFAULT_VOCABULARY_SIZE, PrepSettings
from mmbert_prep.stages import Stages
from mmbert_prep.storage import read_json, write_json
from mmbert_prep.summary import Summary, ignored_files, print_summary
from mmbert_prep.survey import Survey, read_samples
from mmbert_prep.team import Team
from mmbert_prep.tokenization.encoders import open_encoder
from mmbert_prep.tokenization.folder import (
    folder_exists,
    same_tokenizer,
    write_huggingface_folder,
    write_sentencepiece_folder,
)
from mmbert_prep.tokenization.training import train_bpe
from mmbert_prep.units import Plan, plan_units
from mmbert_prep.workspace import Workspace


def preprocess(team: Team, settings: PrepSettings) -> Summary | None:
    """Run the pipeline as one worker of a team; the leader (rank 0) returns the summary.

    Running again continues where an earlier run stopped. Raises UserError for everything that the
    user can mend.
    """
    run = _Run(team, settings)
    with contextlib.ExitStack() as stack:
        if team.rank == 0:
            run.space.lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(output_lock(run.space.lock))
            run.plan_work()
        team.barrier()
        return run.everything()


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
        if not self.space.plan.exists() or (
            read_json(self.space.plan).get("fingerprint") != plan.fingerprint
        ):
            self.space.remove_merge()
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
        description = self._tokenizer(plan)
        self._encode(plan, description)
        if self.leader:
            languages = collect_languages(plan, self.space.units(description.fingerprint))
            self._check(languages)
            write_json(self.space.languages, languages.model_dump(mode="json"))
        self.team.barrier()
        languages = Languages.model_validate(read_json(self.space.languages))
        summaries = LanguageMerger(
            self.stages, self.settings, self.space, languages, description
        ).run()
        if not self.leader:
            self.team.barrier()
            return None
        summary = Summary(
            fingerprint=plan.fingerprint,
            settings=plan.settings,
            tokenizer=description.fingerprint,
            accelerator="none",
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

    def _tokenizer(self, plan: Plan) -> TokenizerDescription:
        folder, given = self.space.tokenizer, self.settings.tokenizer
        if folder_exists(folder):
            if self.leader:
                self._check_existing(folder)
        elif given is not None and given.is_dir() and not (given / "tokenizer.model").is_file():
            if self.leader:
                write_huggingface_folder(folder, given)
        else:
            model = self._given_model(given)
            self._survey(plan)
            if self.leader:
                self._write_sentencepiece(plan, model)
        self.team.barrier()
        return read_tokenizer_description(folder)

    def _check_existing(self, folder: Path) -> None:
        description = read_tokenizer_description(folder)
        wanted = self.settings.vocabulary_size
        given = self.settings.tokenizer
        remedy = "use another output folder, or leave out the option: all sources of an output "
        remedy += "share its tokenizer"
        if given is None:
            if wanted is not None and wanted != description.vocabulary_size:
                raise UserError(
                    f"{folder} has a vocabulary of {description.vocabulary_size}, not {wanted}",
                    remedy=remedy,
                )
        elif not same_tokenizer(given, folder):
            raise UserError(f"{folder} is another tokenizer than {given}", remedy=remedy)

    def _given_model(self, given: Path | None) -> bytes | None:
        if given is None:
            return None
        path = given / "tokenizer.model" if given.is_dir() else given
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(
                f"tokenizer {given} cannot be read: {error.strerror}",
                remedy="give a SentencePiece .model file or a Hugging Face tokenizer folder",
            ) from error

    def _survey(self, plan: Plan) -> None:
        survey, cleaner = Survey(plan, self.settings), Cleaner(self.settings)
        paths = [self.space.survey / f"{unit.key}.jsonl" for unit in plan.units]
        done = sum(u.weight for u, path in zip(plan.units, paths, strict=True) if path.exists())
        with self.stages.stage("survey", "sampling", plan.weight, done) as meter:
            for index in self.stages.claimed(
                [u.key for u in plan.units], [u.weight for u in plan.units]
            ):
                if not paths[index].exists():
                    survey.sample_unit(plan.units[index], cleaner, paths[index], meter)

    def _write_sentencepiece(self, plan: Plan, model: bytes | None) -> None:
        paths = [self.space.survey / f"{unit.key}.jsonl" for unit in plan.units]
        samples = read_samples(paths, self.settings)
        pairs = [(language, text) for language, texts in samples.items() for text in texts]
        if not pairs:
            raise UserError(
                f"no readable text in {self.settings.input}",
                remedy="look at a file by hand: are the columns named as --text-column and "
                "--language-column say, is it UTF-8?",
            )
        if model is None:
            size = self.settings.vocabulary_size or DEFAULT_VOCABULARY_SIZE
            with self.console.status(f"training a tokenizer of {size:,} ids"):
                model = train_bpe((text for _, text in pairs), size, os.cpu_count() or 1)
        with self.console.status("comparing the tokenizer with its fast twin"):
            write_sentencepiece_folder(self.space.tokenizer, model, _some_of_each(samples))

    def _encode(self, plan: Plan, description: TokenizerDescription) -> None:
        folder = self.space.units(description.fingerprint)
        folder.mkdir(exist_ok=True)
        encoder = open_encoder(self.space.tokenizer)
        done = sum(unit.weight for unit in plan.units if is_done(folder, unit.key))
        with self.stages.stage("encode", "encoding", plan.weight, done) as meter:
            units = UnitEncoder(self.settings, encoder, folder, meter, self.team)
            for index in self.stages.claimed(
                [u.key for u in plan.units], [u.weight for u in plan.units]
            ):
                if not is_done(folder, plan.units[index].key):
                    units.run(plan.units[index])

    def _claimed_units(self, plan: Plan) -> Iterator[int]:
        weights = [unit.weight for unit in plan.units]
        return self.stages.claimed([unit.key for unit in plan.units], weights)

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


def _some_of_each(samples: dict[str, list[str]], documents: int = 200) -> Iterator[tuple[str, str]]:
    for language, texts in samples.items():
        for text in texts[:documents]:
            yield language, text
