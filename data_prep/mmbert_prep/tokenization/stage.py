"""The tokenizer of an output folder: existing, given, or trained on a sample."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from mmbert.data.shards.tokenizer_description import (
    TokenizerDescription,
    read_tokenizer_description,
)
from mmbert.data.shards.tokenizer_state import joined
from mmbert.errors import TextError, TokenizerError
from mmbert.files import make_folder
from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.work_units import WorkPlan
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.filters.cleaning import Cleaner
from mmbert_prep.settings import DEFAULT_VOCABULARY_SIZE, PrepSettings
from mmbert_prep.tokenization.folder import (
    is_complete,
    is_huggingface_folder,
    same_tokenizer,
    saved_settings,
    write_huggingface_folder,
    write_sentencepiece_folder,
)
from mmbert_prep.tokenization.sample import TokenizerSampler, read_samples
from mmbert_prep.tokenization.training import train_bpe


class TokenizerStage:
    """Provides SHARDS/tokenizer and checks that it matches the settings."""

    def __init__(
        self, stages: Stages, settings: PrepSettings, workspace: Workspace, console: Console
    ) -> None:
        self._stages, self._settings, self._workspace = stages, settings, workspace
        self._console = console
        self._samples = workspace.samples

    def run(self, plan: WorkPlan, samples: Path | None = None) -> TokenizerDescription:
        """Create the tokenizer unless the output folder has one. Called by all workers.

        `samples`: folder for the samples, if not that of the workspace.
        """
        if samples is not None:
            self._samples = samples
            make_folder(samples)
        folder, given = self._workspace.tokenizer, self._settings.tokenizer
        if is_complete(folder):
            if self._stages.is_rank_zero:
                self._check_existing(folder)
        elif given is not None and is_huggingface_folder(given):
            if self._stages.is_rank_zero:
                write_huggingface_folder(folder, given)
                if names := saved_settings(given):
                    text = f"{given / 'tokenizer.json'}: saved {joined(names)} set aside"
                    self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            model = self._given_model(given)
            self._draw_samples(plan)
            if self._stages.is_rank_zero:
                self._write_sentencepiece(plan, model)
        self._stages.group.barrier()
        return read_tokenizer_description(folder)

    def _check_existing(self, folder: Path) -> None:
        description = read_tokenizer_description(folder)
        wanted = self._settings.vocabulary_size
        given = self._settings.tokenizer
        remedy = "use another output folder, or omit the option: all sources of an output folder "
        remedy += "share its tokenizer"
        if given is None:
            if wanted is not None and wanted != description.vocabulary_size:
                raise TokenizerError(
                    f"{folder} has a vocabulary of {description.vocabulary_size}, not {wanted}",
                    remedy=remedy,
                )
        elif not same_tokenizer(given, folder):
            raise TokenizerError(f"{folder} is a different tokenizer than {given}", remedy=remedy)

    def _given_model(self, given: Path | None) -> bytes | None:
        if given is None:
            return None
        path = given / "tokenizer.model" if given.is_dir() else given
        try:
            return path.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"tokenizer {given} cannot be read: {error.strerror}",
                remedy="give a SentencePiece .model file or a Hugging Face tokenizer folder",
            ) from error

    def _draw_samples(self, plan: WorkPlan) -> None:
        sampler, cleaner = TokenizerSampler(plan, self._settings), Cleaner(self._settings)
        paths = [self._samples / f"{unit.key}.jsonl" for unit in plan.units]
        done = sum(
            u.input_bytes for u, path in zip(plan.units, paths, strict=True) if path.exists()
        )
        with self._stages.stage("survey", "sampling", plan.input_bytes, done) as meter:
            for index in self._stages.claim_tasks(
                [u.key for u in plan.units], [u.input_bytes for u in plan.units]
            ):
                if not paths[index].exists():
                    sampler.sample_unit(plan.units[index], cleaner, paths[index], meter)

    def _write_sentencepiece(self, plan: WorkPlan, model: bytes | None) -> None:
        paths = [self._samples / f"{unit.key}.jsonl" for unit in plan.units]
        samples = read_samples(paths, self._settings)
        pairs = [(language, text) for language, texts in samples.items() for text in texts]
        if not pairs and model is None:
            raise TextError(
                f"no readable text in {self._settings.input}",
                remedy="check that the columns match --text-column and --language-column and that "
                "the text is UTF-8, or name its encoding with --encoding; tokenized input needs "
                "the --tokenizer that made it",
            )
        if model is None:
            size = self._settings.vocabulary_size or DEFAULT_VOCABULARY_SIZE
            with self._console.status(f"training a tokenizer with a vocabulary of {size:,}"):
                model = train_bpe((text for _, text in pairs), size, os.cpu_count() or 1)
        with self._console.status("comparing the tokenizer with its fast version"):
            write_sentencepiece_folder(self._workspace.tokenizer, model, _first_documents(samples))


def _first_documents(
    samples: dict[str, list[str]], documents: int = 200
) -> Iterator[tuple[str, str]]:
    for language, texts in samples.items():
        for text in texts[:documents]:
            yield language, text
