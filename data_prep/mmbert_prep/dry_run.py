"""Input listing of `--dry-run`; reads no documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from mmbert.command_line.console import PlainConsole
from mmbert.command_line.tables import WholeTable
from mmbert.errors import TextError, TokenizerError
from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.readers.discovery import discover, language_remedy
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.summary import ignored_files
from mmbert_prep.tokenization.model_proto import parse_model


def list_inputs(sources: Sequence[PrepSettings]) -> None:
    """Print the number and size of files per language, and the ignored files, of each source."""
    console = PlainConsole()
    for settings in sources:
        if len(sources) > 1:
            console.print(
                f"source {settings.source}: {settings.input}", soft_wrap=True, markup=False
            )
        list_input(settings)


def list_input(settings: PrepSettings) -> None:
    """Print the number and size of files per language, and the ignored files, of one source."""
    console = PlainConsole()
    found = discover(settings)
    _check_files(settings)
    plan = plan_work_units(found, settings)
    sizes: dict[str, list[int]] = {}
    for file in found.files:
        entry = sizes.setdefault(file.language or "(by column)", [0, 0])
        entry[0] += 1
        entry[1] += file.size
    table = WholeTable(
        title=f"{len(found.files)} files, {plan.input_bytes:,} bytes, {len(plan.units)} work units"
    )
    for column in ("language", "files", "bytes on disk"):
        table.add_column(column, justify="left" if column == "language" else "right")
    for name, (files, size) in sorted(sizes.items(), key=lambda item: -item[1][1]):
        table.add_row(Text(name), f"{files:,}", f"{size:,}")
    console.print(table)
    for line in found.about_languages():
        console.print(line, soft_wrap=True, markup=False)
    for line in found.unused_overrides.values():
        console.print(f"in no path: {line}", soft_wrap=True, markup=False)
    for reason, names in ignored_files(found).items():
        console.print(
            f"ignored, {reason}: {len(names)} ({', '.join(names[:5])})",
            soft_wrap=True,
            markup=False,
        )
    if found.without_language:
        console.print(
            f"not read, without a language: {language_remedy(found.without_language)}",
            soft_wrap=True,
            markup=False,
        )


def _check_files(settings: PrepSettings) -> None:
    """Raise UserError if a file that the settings name does not exist."""
    tokenizer = settings.tokenizer
    if tokenizer is not None and not _may_be_tokenizer(tokenizer):
        raise TokenizerError(
            f"{tokenizer} is not a tokenizer",
            remedy="give --tokenizer a SentencePiece model or a Hugging Face folder",
        )
    for path in settings.decontaminate:
        if not path.is_file():
            raise TextError(
                f"{path} is not a file",
                remedy="give --decontaminate .txt, .tsv, .json or .jsonl files",
            )


def _may_be_tokenizer(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    try:
        return bool(parse_model(path.read_bytes()).pieces)
    except (OSError, ValueError):
        return False
