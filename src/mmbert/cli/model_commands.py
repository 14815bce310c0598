"""The commands about models: export, import, merge, evaluate, fill masks."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output
from mmbert.errors import UserError


class Dtype(StrEnum):
    """Precision of exported weights, and of evaluation."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Initialization(StrEnum):
    """Where the embedding rows of new tokens come from."""

    subwords = "subwords"
    mean = "mean"


class Method(StrEnum):
    """How models are merged."""

    ties = "ties"
    linear = "linear"
    ema = "ema"


@app.command(
    epilog="Examples: `mmbert export my_run my_model`, "
    "`mmbert export my_run/checkpoints/step-00002000 my_model --dtype bfloat16`"
)
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run (its newest sound checkpoint is taken) or a checkpoint.")
    ],
    out: Annotated[Path, typer.Argument(help="The Hugging Face folder to write.")],
    dtype: Annotated[Dtype, typer.Option(help="Precision of the weights.")] = Dtype.float32,
) -> None:
    """Write a Hugging Face folder that `transformers` loads; its logits are compared first."""
    from mmbert.hub.export import export_checkpoint

    comparison = export_checkpoint(_checkpoint(checkpoint), out, dtype.value)
    typer.echo(f"{out}: transformers gives the same logits ({comparison})")


@app.command(
    name="fill-mask", epilog="Example: `mmbert fill-mask my_model 'The capital is [MASK].'`"
)
def fill_mask(
    model: Annotated[Path, typer.Argument(help="A Hugging Face folder, such as export writes.")],
    sentences: Annotated[list[str], typer.Argument(help="Sentences with [MASK] in them.")],
    top: Annotated[int, typer.Option(help="Candidates for each mask.", min=1)] = 5,
) -> None:
    """Fill masked tokens with an exported model, through `transformers`."""
    from mmbert.hub.fill_mask import fill_masks

    for sentence, masks in zip(sentences, fill_masks(model, sentences, top=top), strict=True):
        typer.echo(sentence)
        for fillings in masks:
            words = (f"{filling.text!r} {filling.probability:.3f}" for filling in fillings)
            typer.echo(f"  {'  '.join(words)}")


@app.command(
    name="import",
    epilog="Examples: `mmbert import mmBERT-base imported`, "
    "`mmbert import mmBERT-base imported --tokenizer my_shards/tokenizer`, "
    "`mmbert import mmBERT-base small --sizes mmbert-small`",
)
def import_(
    model: Annotated[Path, typer.Argument(help="A Hugging Face folder with a ModernBERT model.")],
    out: Annotated[Path, typer.Argument(help="The folder to write, for `initial_checkpoint`.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="A new or extended tokenizer's folder.")
    ] = None,
    initialization: Annotated[
        Initialization, typer.Option(help="Rows of new tokens: their old subwords, or the mean.")
    ] = Initialization.subwords,
    initialisation: Annotated[
        Initialization | None, typer.Option(hidden=True, help="Former name of --initialization.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Make it smaller, to this recipe's sizes, by striding.")
    ] = None,
) -> None:
    """Make a ModernBERT model (ModernBERT, mmBERT, Ettin, …) a start for training."""
    from mmbert.hub.importing.import_model import import_model
    from mmbert.recipe import load_recipe

    report = import_model(
        model,
        out,
        tokenizer=tokenizer,
        initialization=(initialisation or initialization).value,
        sizes=load_recipe(sizes).model if sizes else None,
    )
    for line in report.lines():
        typer.echo(line)
    typer.echo(f"{out}: name it in the recipe as `initial_checkpoint: {out}`")


@app.command(
    epilog="Examples: `mmbert merge my_run --output merged` (as its recipe says), "
    "`mmbert merge run_all run_english run_continued --method ties "
    "--base my_run/checkpoints/step-00516045 --output merged`, "
    "`mmbert merge my_run/checkpoints/step-* --method ema --output averaged`"
)
def merge(
    models: Annotated[
        list[Path], typer.Argument(help="Runs (newest checkpoint), checkpoints or HF folders.")
    ],
    output: Annotated[Path, typer.Option(help="The Hugging Face folder to write.")],
    method: Annotated[
        Method | None, typer.Option(help="How to merge; not given: as the run's recipe says.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="What the models branched from (ties needs it).")
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="One for each model, in order; equal if not given.")
    ] = None,
    density: Annotated[float, typer.Option(help="Share of each difference that ties keeps.")] = 0.5,
    decay: Annotated[float, typer.Option(help="What an older checkpoint weighs (ema).")] = 0.9,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the weights.")] = Dtype.float32,
) -> None:
    """Merge models of one architecture and tokenizer into one Hugging Face folder."""
    from mmbert.merging.merge import MergeOptions, merge_models
    from mmbert.merging.merge_run import merge_run

    if method is None:
        if len(models) != 1 or base is not None or weight:
            raise UserError(
                "without --method, one run is merged as its recipe says",
                remedy="name one run alone, or give --method ties, linear or ema",
            )
        comparison = merge_run(models[0], output, dtype=dtype.value)
    else:
        comparison = merge_models(
            [_checkpoint(path) for path in models],
            output,
            MergeOptions(method.value, tuple(weight or ()), density, decay),
            base=_checkpoint(base) if base else None,
            dtype=dtype.value,
        )
    typer.echo(f"{output}: {comparison}")


@app.command(
    epilog="Examples: `mmbert evaluate my_model --data my_shards`, "
    "`mmbert evaluate my_run --retrieval eng_Latn.tsv --retrieval swh_Latn.tsv`, "
    "`mmbert evaluate my_model --train train.tsv --test test.tsv`, "
    "`mmbert evaluate my_model --data my_shards --dtype bfloat16`"
)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run, a checkpoint or a Hugging Face folder.")],
    data: Annotated[Path | None, typer.Option(help="Shards: held-out loss per language.")] = None,
    documents: Annotated[int, typer.Option(help="Held-out documents per language.", min=1)] = 32,
    mask_ratio: Annotated[float, typer.Option(help="Share of tokens masked.")] = 0.15,
    context: Annotated[int | None, typer.Option(help="Cut documents to this.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe whose tiers to show; default: the checkpoint's.")
    ] = None,
    all_languages: Annotated[
        bool, typer.Option("--all", help="Show every language, not only tiers and extremes.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the losses of all languages to this file (.tsv).")
    ] = None,
    retrieval: Annotated[
        list[Path] | None,
        typer.Option(help="TSV file of identifiers and texts; one per language, pivot first."),
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Fine-tune on this TSV file of labels and texts.")
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(help="TSV file to score after fine-tuning; may be repeated."),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Precision to compute in; sums and losses are float32.")
    ] = Dtype.float32,
) -> None:
    """Measure a model: held-out loss per language, cross-lingual retrieval, classification."""
    from mmbert.evaluation.classification import FineTuningSettings, fine_tune, render_scores
    from mmbert.evaluation.loaded_model import DTYPES, LoadedModel
    from mmbert.evaluation.loss_report import render_losses, write_losses
    from mmbert.evaluation.masked_loss import masked_losses
    from mmbert.evaluation.retrieval import render_retrieval, retrieval_accuracies
    from mmbert.recipe import load_recipe

    if not (data or retrieval or train):
        raise UserError(
            "nothing to evaluate on", remedy="give --data, --retrieval (twice or more), or --train"
        )
    if test and not train:
        raise UserError("--test is given without --train", remedy="name the file to fine-tune on")
    console, path = console_for_output(), _checkpoint(model)

    def loaded() -> LoadedModel:
        return LoadedModel(path, dtype=DTYPES[dtype.value])

    if data:
        found = masked_losses(
            loaded(),
            data,
            documents_per_language=documents,
            mask_ratio=mask_ratio,
            context=context,
            recipe=load_recipe(recipe) if recipe else None,
        )
        console.print(render_losses(found, all_languages=all_languages))
        if report:
            write_losses(found, report)
    if retrieval:
        accuracies = retrieval_accuracies(loaded(), retrieval)
        console.print(render_retrieval(retrieval[0].stem, accuracies))
    if train:
        console.print(render_scores(fine_tune(loaded(), train, test or [], FineTuningSettings())))


def _checkpoint(path: Path) -> Path:
    """`path` itself, or the newest sound checkpoint if it is a run's folder."""
    if not (path / "checkpoints").is_dir():
        return path
    from mmbert.checkpoint.store import CheckpointStore

    newest = CheckpointStore(path / "checkpoints").newest_sound()
    if newest is None:
        raise UserError(f"{path} has no checkpoint yet", remedy="train it first")
    return newest
