"""The command line of preprocessing: options to settings, errors to exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from mmbert.errors import EXIT_USER_ERROR, UserError
from mmbert.recipe import Recipe, describe_recipe, load_recipe, parse_quantity
from mmbert_prep.executor.progress import files_being_read
from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.executor.workers import (
    WorkerDiedError,
    run_launched,
    run_local,
    worker_group_from_env,
)
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.pipeline import preprocess
from mmbert_prep.readers.discovery import discover
from mmbert_prep.settings import DEFAULT_CONTEXTS, PrepSettings
from mmbert_prep.shards.summary import ignored_files

_EXAMPLES = """Text in many languages and formats -> tokenizer and token shards.

Examples:

  python -m mmbert_prep --input corpus --output shards --vocab-size 32768 --workers 8

  mpirun -n 64 python -m mpi4py -m mmbert_prep --input 'fineweb2/data/*' --output shards
  --tokenizer gemma2/tokenizer.model

  python launch/preprocess.py --input corpus --output shards --recipe small-corpus

  python -m mmbert_prep --input hf:HuggingFaceFW/fineweb-2:swh_Latn --output shards

  python -m mmbert_prep --input code.jsonl.zst --language eng_Latn --source code
  --output shards

Every document is trained on, held out, or rejected and counted by reason (printed at the end, in
OUTPUT/SOURCE/summary.json, and as a table by `mmbert inspect OUTPUT --report report.tsv`).

The same command, run again, continues where it stopped. Exit status: 0 done, 2 the input is wrong.
"""

_FORMER_OPTIONS = {"accelerator": "fast-encoder", "heldout-share": "heldout-fraction"}
"""Former spelling -> present one; both are accepted, only the present one is documented."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _present_option(name: str) -> str:
    return _FORMER_OPTIONS.get(name, name)


@app.command(help=_EXAMPLES, context_settings={"token_normalize_func": _present_option})
def command(
    input_: Annotated[
        str, typer.Option("--input", help="Folder, file, quoted pattern, or hf:DATASET.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the shards.")],
    source: Annotated[
        str | None, typer.Option(help="Name of this source [default: the recipe's, or text].")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Take contexts, vocabulary and tokenizer from a recipe.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="SentencePiece model or Hugging Face folder [default: the output's, or train one]."
        ),
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Ids of a trained tokenizer.")] = None,
    tokenizer_sample: Annotated[str, typer.Option(help="Bytes of text to train it on.")] = "64M",
    tokenizer_temperature: Annotated[
        float, typer.Option(help="Share of a language in them ~ its bytes to this power.")
    ] = 0.3,
    workers: Annotated[int | None, typer.Option(help="Local processes [default: cores].")] = None,
    language: Annotated[
        str | None, typer.Option(help="The language of everything, such as swh_Latn.")
    ] = None,
    language_column: Annotated[
        list[str] | None, typer.Option(help="Column(s) with the key, or with code and script.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or key of the text.")] = "text",
    text_unit: Annotated[str, typer.Option(help="Document in .txt: block, line, file.")] = "block",
    heldout_fraction: Annotated[
        float,
        typer.Option(help="Held out, by content hash; raise it where languages are small."),
    ] = 0.01,
    minimum_characters: Annotated[int, typer.Option(help="Shorter documents are rejected.")] = 1,
    maximum_bytes: Annotated[str, typer.Option(help="Longer documents are rejected.")] = "256M",
    deduplicate: Annotated[
        bool, typer.Option(help="Drop documents that occurred before in their language.")
    ] = True,
    control_characters: Annotated[
        bool,
        typer.Option(
            "--keep-control-characters/--remove-control-characters",
            help="Which: all but tab, line feed and carriage return.",
        ),
    ] = False,
    normalization: Annotated[
        str | None, typer.Option(help="Unicode normalisation: NFC or NFKC [default: none].")
    ] = None,
    decontaminate: Annotated[
        list[Path] | None,
        typer.Option(help="Drop documents that share a run of words with this evaluation text."),
    ] = None,
    decontaminate_ngram: Annotated[int, typer.Option(help="Length of such a run, in words.")] = 13,
    maximum_tokens: Annotated[
        str | None,
        typer.Option(help="Training tokens of a language at most, chosen by content hash."),
    ] = None,
    maximum_rejected_share: Annotated[
        float,
        typer.Option(help="Stop when more of the documents are damaged (not merely unwanted)."),
    ] = 0.1,
    context: Annotated[
        list[int] | None,
        typer.Option(help="Contexts to index [default: recipe's, or 1024, 8192]."),
    ] = None,
    shard_tokens: Annotated[str, typer.Option(help="Tokens of a shard, about.")] = "268435456",
    unit_bytes: Annotated[
        str | None, typer.Option(help="Input bytes of a unit of work [default: by size].")
    ] = None,
    fast_encoder: Annotated[
        str, typer.Option(help="Beside SentencePiece, once found equal: auto, none or kitoken.")
    ] = "auto",
    replace: Annotated[
        bool, typer.Option("--replace", help="Make a finished source again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be read.")
    ] = False,
) -> None:
    """See _EXAMPLES."""
    from_recipe = load_recipe(recipe) if recipe is not None else None
    if from_recipe is not None:
        contexts = tuple(sorted({phase.context for phase in from_recipe.phases}))
        tokenizer = tokenizer or from_recipe.tokenizer.path
        vocab_size = vocab_size or (None if tokenizer else from_recipe.tokenizer.vocab_size)
        source = source_folder(from_recipe, source)
    else:
        contexts = DEFAULT_CONTEXTS
    settings = PrepSettings(
        input=input_,
        output=output,
        source=source or "text",
        replace=replace,
        workers=workers or _cores(),
        language=language,
        language_columns=tuple(language_column or ("language", "language_script")),
        text_column=text_column,
        text_unit=text_unit,
        tokenizer=tokenizer,
        vocabulary_size=vocab_size,
        tokenizer_sample_bytes=int(parse_quantity(tokenizer_sample)),
        tokenizer_temperature=tokenizer_temperature,
        fast_encoder=fast_encoder,
        heldout_share=heldout_fraction,
        minimum_characters=minimum_characters,
        maximum_bytes=int(parse_quantity(maximum_bytes)),
        deduplicate=deduplicate,
        remove_control_characters=not control_characters,
        normalization=normalization,
        decontaminate=tuple(decontaminate or ()),
        decontaminate_ngram=decontaminate_ngram,
        maximum_tokens_per_language=int(parse_quantity(maximum_tokens)) if maximum_tokens else None,
        maximum_rejected_share=maximum_rejected_share,
        contexts=tuple(context) if context else contexts,
        shard_tokens=int(parse_quantity(shard_tokens)),
        unit_bytes=int(parse_quantity(unit_bytes)) if unit_bytes else None,
    )
    if dry_run:
        _dry_run(settings)
        return
    group = worker_group_from_env(settings.output)
    if recipe is not None and (group is None or group.rank == 0):
        print(describe_recipe(recipe), file=sys.stderr, flush=True)
    if group is not None:
        run_launched(preprocess, group, settings)
        return
    try:
        run_local(preprocess, settings.workers, settings)
    except WorkerDiedError as error:
        files = ", ".join(files_being_read(Workspace(settings).progress))
        raise WorkerDiedError(f"{error}; workers were reading: {files or 'nothing'}") from error


def source_folder(recipe: Recipe, name: str | None) -> str:
    """The folder of the recipe's source of that name.

    Without a name, the recipe's only source, or its only multilingual (temperature-sampled) one.
    """
    sources = recipe.data.sources
    folders = {source.name: str(source.path or source.name) for source in sources}
    if name is None:
        several = [source for source in sources if source.sampling == "temperature"]
        chosen = sources if len(sources) == 1 else several
        if len(chosen) == 1:
            return folders[chosen[0].name]
    if name not in folders:
        raise UserError(
            f"the recipe has the sources {', '.join(folders)}"
            + (f", not {name}" if name else ": which one is this input?"),
            remedy="name one of them with --source",
        )
    return folders[name]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _dry_run(settings: PrepSettings) -> None:
    found = discover(settings)
    plan = plan_work_units(found, settings)
    console = Console()
    sizes: dict[str, list[int]] = {}
    for file in found.files:
        entry = sizes.setdefault(file.language or "(by column)", [0, 0])
        entry[0] += 1
        entry[1] += file.size
    table = Table(
        title=f"{len(found.files)} files, {plan.input_bytes:,} bytes, {len(plan.units)} units"
    )
    for column in ("language", "files", "bytes on disk"):
        table.add_column(column, justify="left" if column == "language" else "right")
    for name, (files, size) in sorted(sizes.items(), key=lambda item: -item[1][1]):
        table.add_row(name, f"{files:,}", f"{size:,}")
    console.print(table)
    for why, names in ignored_files(found).items():
        console.print(f"not read, {why}: {len(names)} ({', '.join(names[:5])})", soft_wrap=True)


def main() -> NoReturn:
    """Entry point: exit status 0 done, 2 the user's input is wrong, 1 a worker died or a fault."""
    status = 0
    # A polite end: the lock is released, other workers are stopped.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=False)
    except UserError as error:
        status = print_error(str(error))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        status = print_error(f"an option cannot be used: {problems}\n  → see --help")
    except typer.Exit as error:
        status = error.exit_code
    except WorkerDiedError as error:
        print(f"error: {error}\n  → run the same command again: it continues", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again: it continues", file=sys.stderr)
        status = 130
    _exit(status)


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def print_error(text: str) -> int:
    print(f"error: {text}", file=sys.stderr, flush=True)
    return EXIT_USER_ERROR


def _exit(status: int) -> NoReturn:
    mpi = sys.modules.get("mpi4py.MPI")
    if status and mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        mpi.COMM_WORLD.Abort(status)  # the other ranks would wait for this one for ever
    sys.exit(status)
