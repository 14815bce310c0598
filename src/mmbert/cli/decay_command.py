"""`mmbert decay`: a decay phase of one's own, from a model and text to a model and a table."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples
from mmbert.command_line.values import (
    MOST_DOCUMENTS,
    MOST_GPUS,
    parse_output_folder,
    parse_path,
    parse_text,
    tokens_from,
)
from mmbert.errors import ArgumentError, TextError

if TYPE_CHECKING:
    from mmbert.decay.request import DecayRequest

_TRAIN = "deepspeed --num_gpus 8 --module mmbert.pretrain"


class StageName(StrEnum):
    """Stages of a decay, in order."""

    # Not `import`, a keyword.
    first = "import"
    preprocess = "preprocess"
    plan = "plan"
    train = "train"
    model = "model"
    evaluate = "evaluate"


@app.command(
    epilog=examples(
        "mmbert decay jhu-clsp/mmBERT-base --input my_text --old old_text --output my_decay "
        "--dry-run",
        "mmbert decay jhu-clsp/mmBERT-base --input my_text --old old_text --output my_decay "
        "--languages swh_Latn,hau_Latn --tokens 1B",
        "mmbert decay jhu-clsp/mmBERT-base --state mmbert-base-ext.pt --onto jhu-clsp/mmBERT-base "
        f"--input my_text --old old_text --output my_decay --launch '{_TRAIN}'",
        "mmbert decay my_model --input my_text --without-old --output my_decay --merge linear:0.5",
        "mmbert decay my_model --input my_text --old old_text --output my_decay --until plan",
    )
)
def decay(
    model: Annotated[
        str,
        typer.Argument(
            parser=parse_text, help="Model to adapt: Hugging Face folder or NAME@REVISION."
        ),
    ],
    input: Annotated[
        str,
        typer.Option(parser=parse_text, help="Text of your languages, as for the preprocessing."),
    ],
    output: Annotated[
        Path, typer.Option(parser=parse_output_folder, help="Folder for everything that is made.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
    ] = None,
    old: Annotated[
        str | None,
        typer.Option(
            parser=parse_text,
            help="Sample of the languages to keep: text, or published MDS shards.",
        ),
    ] = None,
    without_old: Annotated[
        bool,
        typer.Option("--without-old", help="Train without them; the model may forget them."),
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, help="Training state of the model (.pt, Composer) to continue from."
        ),
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(
            parser=parse_text, help="With --state: model to merge the result with [default: MODEL]."
        ),
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option(
            help="ties:DENSITY, linear:WEIGHT (of the result; the rest is the start), or none "
            "[default: ties:0.5 with --state, else none]."
        ),
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            parser=parse_text, help="Languages of --input to train on, with commas [default: all]."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            parser=tokens_from(1),
            metavar="TOKENS",
            help="Length of the training [default: the recipe's].",
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Packaged recipe (see `mmbert recipes`) or YAML file.")
    ] = "your-decay",
    preprocess: Annotated[
        str, typer.Option(help="Further options of the preprocessing of --input, quoted.")
    ] = "",
    preprocess_old: Annotated[
        str, typer.Option(help="Further options of the preprocessing of --old, quoted.")
    ] = "",
    workers: Annotated[
        int | None, typer.Option(help="Processes of the preprocessing.", min=1, max=4096)
    ] = None,
    launch: Annotated[
        str, typer.Option(help="Command that launches the training.")
    ] = "deepspeed --module mmbert.pretrain",
    gpus: Annotated[int, typer.Option(help="GPUs in the cost estimate.", min=1, max=MOST_GPUS)] = 1,
    gpu: Annotated[str, typer.Option(help="GPU model in the cost estimate.")] = "h100",
    documents: Annotated[
        int,
        typer.Option(
            help="Held-out documents per language in the comparison.", min=1, max=MOST_DOCUMENTS
        ),
    ] = 32,
    until: Annotated[StageName | None, typer.Option(help="Stop after this stage.")] = None,
    all_languages: Annotated[
        bool, typer.Option("--all", help="Show every language instead of the extremes.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the stages, their commands and what is done.")
    ] = False,
) -> None:
    """Train a decay phase of your own: from a model and text to a model and a table of losses.

    Stages: import, preprocess, plan (with the cost), train, model (merge or export), evaluate
    (held-out loss of every language before and after). Each continues where it stopped. Training
    starts from the state if there is one, else from the model's weights with new moments and a
    warm-up. Exit status 75: the training stopped after saving, repeat the command to continue.
    """
    from mmbert.decay.layout import DecayFolder
    from mmbert.decay.merging import describe_merge
    from mmbert.decay.request import (
        DecayRequest,
        absolute,
        begin,
        check_folder,
        check_same,
        parse_merge,
        recipe_checksum,
        recipe_name,
        recorded_request,
    )
    from mmbert.decay.stages import Settings, decay_stages, run_stages, show_result
    from mmbert.hardware import find_gpu
    from mmbert.launching import RunIncompleteError, launcher_command, split_words
    from mmbert.ownership import take_folder

    _check_old(old, without_old)
    find_gpu(gpu)
    if state is not None and not state.is_file():
        raise ArgumentError(
            f"--state {state} is not a file",
            remedy="give a Composer checkpoint (.pt); a model without one needs no --state",
        )
    merged = parse_merge(merge, state=state is not None, onto=onto is not None)
    request = DecayRequest(
        model=absolute(model),
        state=None if state is None else str(state.absolute()),
        onto=absolute(onto or model) if merged.method == "ties" else None,
        merge=merged,
        input=absolute(input),
        old=None if old is None else absolute(old),
        languages=_languages(languages),
        tokens=tokens,
        recipe=recipe_name(recipe),
        recipe_checksum=recipe_checksum(recipe, overrides or ()),
        overrides=tuple(overrides or ()),
        preprocess=tuple(split_words("--preprocess", preprocess)),
        preprocess_old=tuple(split_words("--preprocess-old", preprocess_old)),
    )
    folder = DecayFolder(output.absolute())
    settings = Settings(tuple(launcher_command(launch)), workers, gpus, gpu, documents)
    console = console_for_output()
    stages = decay_stages(request, folder, settings, console)
    for line in (_start(request), describe_merge(request), *_about_old(request)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not folder.shards.exists():
        _check_languages_of_paths(request)
    if dry_run:
        kept = recorded_request(folder)
        if kept is not None:
            check_same(folder, kept, request)
        for number, stage in enumerate(stages, 1):
            for line in stage.describe(number):
                print(line)
        return
    check_folder(folder, request)  # before a file of the owner is laid into it
    try:
        with take_folder(folder.path, what=f"the decay {folder.path}") as owner:
            begin(folder, request)
            run_stages(stages, None if until is None else until.value, console, owner)
    except RunIncompleteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.status) from error
    if until is not None and not stages[-1].done():
        print(f"stopped after {until.value}; repeat the command without --until to continue")
    elif stages[-1].done():
        show_result(folder, console, all_languages=all_languages)


def _check_old(old: str | None, without_old: bool) -> None:
    if old is not None and without_old:
        raise ArgumentError("--old and --without-old are both given", remedy="omit one of them")
    if old is None and not without_old:
        raise ArgumentError(
            "there is no text of the old languages, which the model may forget in the training",
            remedy="give a sample of it with --old FOLDER (text, or published MDS shards); or "
            "--without-old, if --input contains it or forgetting does not matter",
        )


def _start(request: "DecayRequest") -> str:
    if request.state is not None:
        return f"training continues from {request.state}, with its moments and without a warm-up"
    return f"training starts from the weights of {request.model}, with new moments and a warm-up"


def _about_old(request: "DecayRequest") -> tuple[str, ...]:
    return () if request.old else ("nothing holds the old languages (--without-old)",)


def _languages(text: str | None) -> tuple[str, ...]:
    found = tuple(name for name in (text or "").replace(",", " ").split())
    if text is not None and not found:
        raise ArgumentError("--languages is empty", remedy="omit it for all, or name some")
    return found


def _check_languages_of_paths(request: "DecayRequest") -> None:
    """Check INPUT before anything else, as far as its paths name the languages.

    Raises TextError if there is nothing to read, or no text of a language of the request.
    """
    from mmbert.decay.filled_recipe import selects
    from mmbert_prep.readers.discovery import discover
    from mmbert_prep.settings import InputSettings

    if request.preprocess:  # columns, a language or other options
        return
    languages = [file.language for file in discover(InputSettings(input=request.input)).files]
    if None in languages:
        return
    named: Sequence[str] = sorted({language for language in languages if language is not None})
    missing = [name for name in request.languages if not any(selects([name], one) for one in named)]
    if missing:
        raise TextError(
            f"no text in {request.input} for {', '.join(missing)}",
            remedy=f"write languages as iso639-3_Script (swh_Latn); with text: {', '.join(named)}",
        )
