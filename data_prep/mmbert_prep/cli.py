"""Command line of preprocessing: options to settings, errors to exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from mmbert.command_line.running import run_application
from mmbert.command_line.values import parse_text
from mmbert.errors import ArgumentError
from mmbert.recipe import Recipe, describe_recipe, load_recipe
from mmbert_prep import options
from mmbert_prep.dry_run import list_inputs
from mmbert_prep.executor.local_workers import run_local
from mmbert_prep.executor.progress import files_being_read
from mmbert_prep.executor.workers import WorkerDiedError, run_launched, worker_group_from_env
from mmbert_prep.executor.workspace import Workspace
from mmbert_prep.languages.option import language_option
from mmbert_prep.languages.overrides import LanguageMap
from mmbert_prep.languages.overrides_file import read_language_map
from mmbert_prep.pipeline import preprocess_sources
from mmbert_prep.settings import PrepSettings
from mmbert_prep.source_options import named_inputs, unread_folders

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
  python -m mmbert_prep --source web=corpus/web --source books=corpus/books
      --output shards

Every document is assigned to the training split or the held-out split, or rejected and counted by
reason. The counts are printed at the end and stored in OUTPUT/SOURCE/summary.json;
`mmbert inspect OUTPUT --report report.tsv` writes them as a table.

An interrupted run continues when the same command is run again. Exit status: 0 done, 1 a worker was
killed, 2 invalid options or input, 130 or 143 interrupted.
"""

_FORMER_OPTIONS = {
    "accelerator": "fast-encoder",
    "heldout-share": "heldout-fraction",
    "maximum-rejected-share": "maximum-rejected-fraction",
}
"""Deprecated option name -> current name. Both are accepted; the help lists the current one."""

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
    output: options.Output,
    input: options.Input = None,
    source: options.Source = None,
    sources_in: options.SourcesIn = None,
    recipe: options.Recipe = None,
    tokenizer: options.Tokenizer = None,
    vocabulary_size: options.VocabularySize = None,
    tokenizer_sample_bytes: options.TokenizerSampleBytes = _DEFAULTS["tokenizer_sample_bytes"],
    tokenizer_temperature: options.TokenizerTemperature = _DEFAULTS["tokenizer_temperature"],
    workers: options.Workers = None,
    language: options.Language = None,
    language_columns: options.LanguageColumns = None,
    language_map: options.LanguageMapFile = None,
    text_column: options.TextColumn = _DEFAULTS["text_column"],
    text_unit: options.TextUnit = _DEFAULTS["text_unit"],
    encoding: options.Encoding = _DEFAULTS["encoding"],
    delimiter: options.Delimiter = None,
    quotes: options.Quotes = _DEFAULTS["quotes"],
    where: options.Where = None,
    heldout_share: options.HeldoutShare = _DEFAULTS["heldout_share"],
    minimum_characters: options.MinimumCharacters = _DEFAULTS["minimum_characters"],
    maximum_bytes: options.MaximumBytes = _DEFAULTS["maximum_bytes"],
    deduplicate: options.Deduplicate = _DEFAULTS["deduplicate"],
    near_duplicates: options.NearDuplicates = None,
    near_duplicate_permutations: options.NearDuplicatePermutations = _DEFAULTS[
        "near_duplicate_permutations"
    ],
    near_duplicate_memory: options.NearDuplicateMemory = _DEFAULTS["near_duplicate_memory"],
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
    loaded = load_recipe(recipe) if recipe is not None else None
    sources = _settings(context, loaded)
    group = None if dry_run else worker_group_from_env(output)
    if group is None or group.rank == 0:
        if sources[0].language != language:
            mapped = f"languages: {language} → {sources[0].language}"
            print(mapped, file=sys.stdout if dry_run else sys.stderr, flush=True)
        if recipe is not None and not dry_run:
            print(describe_recipe(recipe), file=sys.stderr, flush=True)
        if sources_in is not None and loaded is not None:
            for name in unread_folders(sources_in, loaded):
                print(f"not read, no source of the recipe: {sources_in / name}", file=sys.stderr)
    if dry_run:
        list_inputs(sources)
        return
    if group is not None:
        run_launched(preprocess_sources, group, sources)
        return
    try:
        run_local(preprocess_sources, sources[0].workers, sources)
    except WorkerDiedError as error:
        workspace = Workspace(sources[0].output, sources[0].source)
        files = ", ".join(files_being_read(workspace.progress))
        raise WorkerDiedError(f"{error}; workers were reading: {files or 'nothing'}") from error


def _settings(context: typer.Context, recipe: Recipe | None) -> tuple[PrepSettings, ...]:
    """Build the settings of each source from the options, with defaults from the recipe."""
    values = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    del values["dry_run"]
    values.pop("recipe", None)
    sources = named_inputs(
        values.pop("source", ()), values.pop("input", None), values.pop("sources_in", None), recipe
    )
    for _, text in sources:
        parse_text(text)
    values.setdefault("workers", _cores())
    if "language_map" in values:
        values["language_map"] = read_language_map(values["language_map"])
    if "language" in values:
        values["language"] = language_option(
            values["language"], values.get("language_map", LanguageMap())
        )
    if recipe is not None:
        values.setdefault("contexts", sorted({phase.context for phase in recipe.phases}))
        if recipe.tokenizer.path is not None:
            values.setdefault("tokenizer", recipe.tokenizer.path)
        if "tokenizer" not in values:
            values.setdefault("vocabulary_size", recipe.tokenizer.vocab_size)
    try:
        return tuple(
            PrepSettings(**values, input=text, **({} if name is None else {"source": name}))
            for name, text in sources
        )
    except ValidationError as error:
        names = {option.name: option.opts[0] for option in context.command.params}
        problems = "; ".join(
            f"{names.get(str(item['loc'][0]), item['loc'][0])}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise ArgumentError(f"invalid options: {problems}", remedy="see --help") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> NoReturn:
    """Run the command. Exit status: 0 success, 1 worker died, 2 user error, 130 interrupted."""
    status = 0
    # SIGTERM raises SystemExit, so that `finally` blocks release the lock and stop other workers.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = run_application(app)
    except WorkerDiedError as error:
        print(f"error: {error}\n  → run the same command again to continue", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        status = 130
    _exit(status)


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _exit(status: int) -> NoReturn:
    mpi = sys.modules.get("mpi4py.MPI")
    if status and mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        mpi.COMM_WORLD.Abort(status)  # otherwise the other ranks wait forever
    sys.exit(status)
