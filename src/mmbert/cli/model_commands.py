"""Model commands: `export`, `fill-mask`, `merge`, `evaluate`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples, refuse_given
from mmbert.command_line.values import LONGEST_CONTEXT, MOST_DOCUMENTS, number, parse_path
from mmbert.errors import ArgumentError, CheckpointError


class Dtype(StrEnum):
    """Data type of exported weights and of evaluation."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Method(StrEnum):
    """Merge method."""

    ties = "ties"
    linear = "linear"
    ema = "ema"


@app.command(
    epilog=examples(
        "mmbert export my_run my_model",
        "mmbert export my_run/checkpoints/step-00002000 my_model --dtype bfloat16",
    )
)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            parser=parse_path, help="Checkpoint, or run (uses its latest valid checkpoint)."
        ),
    ],
    out: Annotated[Path, typer.Argument(parser=parse_path, help="Hugging Face folder to write.")],
    dtype: Annotated[Dtype, typer.Option(help="Data type of the weights.")] = Dtype.float32,
) -> None:
    """Export a checkpoint as a Hugging Face folder, verified against `transformers`."""
    from mmbert.hub.export import export_checkpoint

    comparison = export_checkpoint(_checkpoint(checkpoint), out, dtype.value, _say)
    print(f"{out}: logits match transformers ({comparison})")


@app.command(
    name="fill-mask", epilog=examples("mmbert fill-mask my_model 'The capital is [MASK].'")
)
def fill_mask(
    model: Annotated[
        Path,
        typer.Argument(
            parser=parse_path, help="Hugging Face folder, such as export writes, or name."
        ),
    ],
    sentences: Annotated[list[str], typer.Argument(help="Sentences that contain [MASK].")],
    top: Annotated[int, typer.Option(help="Number of candidates per mask.", min=1, max=1000)] = 5,
) -> None:
    """Predict masked tokens with an exported model, through `transformers`."""
    from mmbert.hub.fill_mask import fill_masks

    answers = fill_masks(_model_folder(model), sentences, top=top, say=_say)
    for sentence, masks in zip(sentences, answers, strict=True):
        print(sentence)
        for candidates in masks:
            words = (f"{found.text!r} {found.probability:.3f}" for found in candidates)
            print(f"  {'  '.join(words)}")


@app.command(
    epilog=examples(
        "mmbert merge my_run --output merged",
        "mmbert merge run_all run_english run_continued --method ties --base "
        "my_run/checkpoints/step-00516045 --output merged",
        "mmbert merge my_run --method ema --output averaged",
    )
)
def merge(
    models: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path,
            help="Checkpoints, runs (latest checkpoint), Hugging Face folders or names. With "
            "--method ema a run or its checkpoints, of which those of the last phase are averaged.",
        ),
    ],
    output: Annotated[Path, typer.Option(parser=parse_path, help="Hugging Face folder to write.")],
    method: Annotated[
        Method | None, typer.Option(help="Merge method (default: that of the run's recipe).")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, help="Model that the others branched from (required by ties)."
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(parser=number(gt=0), help="Weight of each model, in order (default: equal)."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            parser=number(gt=0, le=1),
            help="Fraction of each difference kept by ties [default: 0.5].",
        ),
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(
            parser=number(gt=0, lt=1),
            help="Weight of a checkpoint relative to the next newer one (ema) [default: 0.9].",
        ),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Data type of the weights.")] = Dtype.float32,
) -> None:
    """Merge models of one architecture and tokenizer into one Hugging Face folder."""
    from mmbert.merging.merge import MergeOptions, merge_models
    from mmbert.merging.merge_run import checkpoints_to_average, merge_run

    if method is None:
        if len(models) != 1 or base is not None or weight or density or decay:
            raise ArgumentError(
                "merging without --method takes exactly one run and no --base, --weight, --density"
                " or --decay",
                remedy="name a single run, or give --method ties, linear or ema",
            )
        comparison = merge_run(models[0], output, dtype=dtype.value, say=_say)
    else:
        if method is not Method.ties:
            refuse_given({"--density": density}, f"the method is {method.value}", "leave it out")
        if method is not Method.ema:
            refuse_given({"--decay": decay}, f"the method is {method.value}", "leave it out")
        if method is Method.ema:
            models, notes = checkpoints_to_average(models)
            for note in notes:
                print(note)
        comparison = merge_models(
            [_checkpoint(path) for path in models],
            output,
            MergeOptions(
                method.value,
                tuple(weight or ()),
                MergeOptions.density if density is None else density,
                MergeOptions.decay if decay is None else decay,
            ),
            base=_checkpoint(base) if base else None,
            dtype=dtype.value,
            say=_say,
        )
    print(f"{output}: {comparison}")


@app.command(
    epilog=examples(
        "mmbert evaluate my_model --data my_shards",
        "mmbert evaluate my_run --retrieval eng_Latn.tsv --retrieval swh_Latn.tsv",
        "mmbert evaluate my_model --train train.tsv --test test.tsv",
        "mmbert evaluate my_model --data my_shards --dtype bfloat16",
    )
)
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(parser=parse_path, help="Run, checkpoint, Hugging Face folder or name."),
    ],
    data: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Shards to measure the held-out loss on.")
    ] = None,
    documents: Annotated[
        int, typer.Option(help="Held-out documents per language.", min=1, max=MOST_DOCUMENTS)
    ] = 32,
    mask_ratio: Annotated[
        float,
        typer.Option(
            parser=number(ge=0.01, le=0.99), min=0.01, max=0.99, help="Fraction of tokens to mask."
        ),
    ] = 0.15,
    context: Annotated[
        int | None,
        typer.Option(help="Truncate documents to this many tokens.", min=8, max=LONGEST_CONTEXT),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe that defines the tiers (default: the checkpoint's).")
    ] = None,
    all_languages: Annotated[
        bool, typer.Option("--all", help="Show every language instead of the extremes.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, help="Write the loss of every language to this file (.tsv)."
        ),
    ] = None,
    retrieval: Annotated[
        list[Path] | None,
        typer.Option(
            parser=parse_path,
            help="TSV file: identifier, text. Repeat for each language, pivot first.",
        ),
    ] = None,
    train: Annotated[
        Path | None, typer.Option(parser=parse_path, help="TSV file to fine-tune on: label, text.")
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(parser=parse_path, help="TSV file to score after fine-tuning; repeatable."),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Compute data type; sums and losses stay in float32.")
    ] = Dtype.float32,
) -> None:
    """Evaluate a model: held-out loss per language, cross-lingual retrieval, classification."""
    from mmbert.evaluation.classification import FineTuningSettings, fine_tune, render_scores
    from mmbert.evaluation.loaded_model import DTYPES, LoadedModel
    from mmbert.evaluation.loss_report import render_losses, write_losses
    from mmbert.evaluation.masked_loss import masked_losses
    from mmbert.evaluation.retrieval import render_retrieval, retrieval_accuracies
    from mmbert.recipe import load_recipe

    if not (data or retrieval or train):
        raise ArgumentError(
            "nothing to evaluate on", remedy="give --data, --retrieval (twice or more), or --train"
        )
    if test and not train:
        raise ArgumentError("--test requires --train", remedy="name the file to fine-tune on")
    if not data:
        of_data = {"--report": report, "--recipe": recipe, "--context": context,
                   "--all": all_languages}  # fmt: skip
        refuse_given(of_data, "the held-out loss is not measured", "give --data too")
    console, path = console_for_output(), _checkpoint(model)

    said: set[str | None] = {None}

    def loaded() -> LoadedModel:
        opened = LoadedModel(path, dtype=DTYPES[dtype.value])
        if opened.tokenizer.set_aside not in said:
            said.add(opened.tokenizer.set_aside)
            print(opened.tokenizer.set_aside, file=sys.stderr)
        return opened

    if data:
        found = masked_losses(
            loaded(),
            data,
            documents_per_language=documents,
            mask_ratio=mask_ratio,
            context=context,
            recipe=load_recipe(recipe) if recipe is not None else None,
        )
        console.print(render_losses(found, all_languages=all_languages))
        if report:
            write_losses(found, report)
    if retrieval:
        accuracies = retrieval_accuracies(loaded(), retrieval)
        console.print(render_retrieval(retrieval[0].stem, accuracies))
    if train:
        console.print(render_scores(fine_tune(loaded(), train, test or [], FineTuningSettings())))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _model_folder(model: Path) -> Path:
    """Return the folder of a model given by folder or by name on the hub."""
    from mmbert.hub.hub_name import model_folder

    return model_folder(model, _say)


def _checkpoint(path: Path) -> Path:
    """Return the latest valid checkpoint of a run folder, or the folder of another model."""
    if not (path / "checkpoints").is_dir():
        return _model_folder(path)
    from mmbert.checkpoint.store import CheckpointStore

    newest = CheckpointStore(path / "checkpoints").latest_valid()
    if newest is None:
        raise CheckpointError(f"{path} has no checkpoint yet", remedy="train it first")
    return newest
