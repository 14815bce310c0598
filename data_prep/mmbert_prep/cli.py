"""Command line of preprocessing: options to settings, errors to exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from mmbert.errors import EXIT_USER_ERROR, ArgumentError, UserError
from mmbert.recipe import Recipe, describe_recipe, load_recipe
from mmbert_prep import options
from mmbert_prep.dry_run import list_input
from mmbert_prep.executor.local_workers import run_local
from mmbert_prep.executor.progress import files_being_read
from mmbert_prep.executor.workers import WorkerDiedError, run_launched, worker_group_from_env
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.pipeline import preprocess
from mmbert_prep.settings import PrepSettings

_HELP = """Build a tokenizer and token shards from text in many languages and formats.

\b
Examples:
  python -m mmbert_prep --input corpus --output shards --vocab-size 32768
  mpirun -n 64 python -m mpi4py -m mmbert_prep --input 'fineweb2/data/*'
      --output shards --tokenizer gemma2/tokenizer.model
  python launch/preprocess.py --input corpus --output shards
      --recipe small-corpus --workers 8
  python -m mmbert_prep --input hf:HuggingFaceFW/fineweb-2:swh_Latn
      --output shards
  python -m mmbert_prep --input code.jsonl.zst --output shards
      --language eng_Latn --source code

Every document is assigned to the training split or the held-out split, or rejected and counted by
reason. The counts are printed at the end and stored in OUTPUT/SOURCE/summary.json;
`mmbert inspect OUTPUT --report report.tsv` writes them as a table.

An interrupted run continues when the same command is run again. Exit status: 0 on success, 2 for
invalid options or input.
"""

_FORMER_OPTIONS = {
    "accelerator": "fast-encoder",
    "heldout-share": "heldout-fraction",
    "maximum-rejected-share": "maximum-rejected-fraction",
}
"""Deprecated option name -> current name. Both are accepted; the help lists the current one."""

# ClickException of click, or of the copy that newer versions of typer bundle.
_OptionError: type[Exception] = typer.BadParameter.__mro__[2]

_DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in PrepSettings.model_fields.items()
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _present_option(name: str) -> str:
    return _FORMER_OPTIONS.get(name, name)


# Every option except --recipe and --dry-run is a field of PrepSettings.
@app.command(help=_HELP, context_settings={"token_normalize_func": _present_option})
def command(
    context: typer.Context,
    input: options.Input,
    output: options.Output,
    source: options.Source = None,
    recipe: options.Recipe = None,
    tokenizer: options.Tokenizer = None,
    vocabulary_size: options.VocabularySize = None,
    tokenizer_sample_bytes: options.TokenizerSampleBytes = _DEFAULTS["tokenizer_sample_bytes"],
    tokenizer_temperature: options.TokenizerTemperature = _DEFAULTS["tokenizer_temperature"],
    workers: options.Workers = None,
    language: options.Language = None,
    language_columns: options.LanguageColumns = None,
    text_column: options.TextColumn = _DEFAULTS["text_column"],
    text_unit: options.TextUnit = _DEFAULTS["text_unit"],
    heldout_share: options.HeldoutShare = _DEFAULTS["heldout_share"],
    minimum_characters: options.MinimumCharacters = _DEFAULTS["minimum_characters"],
    maximum_bytes: options.MaximumBytes = _DEFAULTS["maximum_bytes"],
    deduplicate: options.Deduplicate = _DEFAULTS["deduplicate"],
    remove_control_characters: options.RemoveControlCharacters = _DEFAULTS[
        "remove_control_characters"
    ],
    normalization: options.Normalization = None,
    decontaminate: options.Decontaminate = None,
    decontaminate_ngram: options.DecontaminateNgram = _DEFAULTS["decontaminate_ngram"],
    maximum_tokens_per_language: options.MaximumTokensPerLanguage = None,
    maximum_unread_fraction: options.MaximumUnreadFraction = _DEFAULTS["maximum_unread_fraction"],
    maximum_rejected_fraction: options.MaximumRejectedFraction = _DEFAULTS[
        "maximum_rejected_fraction"
    ],
    maximum_without_language_fraction: options.MaximumWithoutLanguageFraction = _DEFAULTS[
        "maximum_without_language_fraction"
    ],
    contexts: options.Contexts = None,
    shard_tokens: options.ShardTokens = _DEFAULTS["shard_tokens"],
    unit_bytes: options.UnitBytes = None,
    fast_encoder: options.FastEncoder = _DEFAULTS["fast_encoder"],
    replace: options.Replace = False,
    dry_run: options.DryRun = False,
) -> None:
    """Run preprocessing. The user documentation is `_HELP`."""
    settings = _settings(context, load_recipe(recipe) if recipe is not None else None)
    if dry_run:
        list_input(settings)
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
        workspace = Workspace(settings.output, settings.source)
        files = ", ".join(files_being_read(workspace.progress))
        raise WorkerDiedError(f"{error}; workers were reading: {files or 'nothing'}") from error


def _settings(context: typer.Context, recipe: Recipe | None) -> PrepSettings:
    """Build the settings from the options, with defaults from the recipe."""
    values = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    del values["dry_run"]
    values.pop("recipe", None)
    values.setdefault("workers", _cores())
    if recipe is not None:
        values["source"] = source_folder(recipe, values.get("source"))
        values.setdefault("contexts", sorted({phase.context for phase in recipe.phases}))
        if recipe.tokenizer.path is not None:
            values.setdefault("tokenizer", recipe.tokenizer.path)
        if "tokenizer" not in values:
            values.setdefault("vocabulary_size", recipe.tokenizer.vocab_size)
    try:
        return PrepSettings(**values)
    except ValidationError as error:
        names = {option.name: option.opts[0] for option in context.command.params}
        problems = "; ".join(
            f"{names.get(str(item['loc'][0]), item['loc'][0])}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise ArgumentError(f"invalid options: {problems}", remedy="see --help") from error


def source_folder(recipe: Recipe, name: str | None) -> str:
    """Return the folder of the recipe source `name`.

    `name` defaults to the only source, or to the only multilingual (temperature-sampled) one.
    """
    sources = recipe.data.sources
    folders = {source.name: str(source.path or source.name) for source in sources}
    if name is None:
        multilingual = [source for source in sources if source.sampling == "temperature"]
        candidates = sources if len(sources) == 1 else multilingual
        if len(candidates) == 1:
            return folders[candidates[0].name]
    if name not in folders:
        raise ArgumentError(
            f"the recipe has the sources {', '.join(folders)}"
            + (f", not {name}" if name else "; it is unclear which one this input is"),
            remedy="name one of them with --source",
        )
    return folders[name]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> NoReturn:
    """Run the command. Exit status: 0 success, 1 worker died, 2 user error, 130 interrupted."""
    status = 0
    # SIGTERM raises SystemExit, so that `finally` blocks release the lock and stop other workers.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=False)
    except UserError as error:
        status = print_error(str(error))
    except _OptionError as error:
        message = error.format_message()  # type: ignore[attr-defined]
        status = print_error(f"{message}\n  → see --help")
    except typer.Exit as error:
        status = error.exit_code
    except WorkerDiedError as error:
        print(f"error: {error}\n  → run the same command again to continue", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        status = 130
    _exit(status)


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def print_error(text: str) -> int:
    """Print an error; return the exit status of user errors."""
    print(f"error: {text}", file=sys.stderr, flush=True)
    return EXIT_USER_ERROR


def _exit(status: int) -> NoReturn:
    mpi = sys.modules.get("mpi4py.MPI")
    if status and mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        mpi.COMM_WORLD.Abort(status)  # otherwise the other ranks wait forever
    sys.exit(status)
