"""Command `evaluate`: held-out loss, retrieval and classification."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples, refuse_given
from mmbert.cli.model_commands import Dtype, checkpoint_of, say
from mmbert.command_line.values import LONGEST_CONTEXT, MOST_DOCUMENTS, number, parse_path
from mmbert.errors import ArgumentError


class Predicts(StrEnum):
    """Objective whose loss is measured."""

    masked = "masked"
    causal = "causal"


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
            parser=number(ge=0.01, le=0.99),
            min=0.01,
            max=0.99,
            help="Fraction of tokens to mask, or of next tokens to predict.",
        ),
    ] = 0.15,
    objective: Annotated[
        Predicts | None,
        typer.Option(
            help="Predict masked tokens, or next tokens (causal) [default: as the model's last"
            " phase]."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Truncate documents to this many tokens [default: the model's context, at most "
            "8192].",
            min=8,
            max=LONGEST_CONTEXT,
        ),
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
                   "--objective": objective, "--all": all_languages}  # fmt: skip
        refuse_given(of_data, "the held-out loss is not measured", "give --data too")
    console, path = console_for_output(), checkpoint_of(model)

    said: set[str | None] = {None}

    def loaded() -> LoadedModel:
        opened = LoadedModel(path, dtype=DTYPES[dtype.value])
        if opened.tokenizer.set_aside not in said:
            said.add(opened.tokenizer.set_aside)
            print(opened.tokenizer.set_aside, file=sys.stderr)
        return opened

    def in_both_directions() -> LoadedModel:
        opened = loaded()
        if opened.model.objective == "causal":
            say(f"{path} ended its training in a causal phase; tokens attend to both sides here")
        return opened

    if data:
        opened = loaded()
        found = masked_losses(
            opened,
            data,
            objective=opened.model.objective if objective is None else objective.value,
            documents_per_language=documents,
            mask_ratio=mask_ratio,
            context=context,
            recipe=load_recipe(recipe) if recipe is not None else None,
        )
        del opened  # its memory is needed for the next one
        console.print(render_losses(found, all_languages=all_languages))
        if report:
            write_losses(found, report)
    if retrieval:
        accuracies = retrieval_accuracies(in_both_directions(), retrieval)
        console.print(render_retrieval(retrieval[0].stem, accuracies))
    if train:
        scores = fine_tune(in_both_directions(), train, test or [], FineTuningSettings())
        console.print(render_scores(scores))
