"""Model commands: `export`, `fill-mask`, `merge`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, examples, refuse_given
from mmbert.command_line.values import number, parse_path
from mmbert.errors import ArgumentError, CheckpointError


class Dtype(StrEnum):
    """Data type of exported weights and of evaluation."""

    float32 = "float32"
    bfloat16 = "bfloat16"


AllowCausal = Annotated[
    bool,
    typer.Option(
        "--allow-causal",
        help="Also a model that ended its training in a causal phase; config.json and card say so.",
    ),
]


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
    allow_causal: AllowCausal = False,
) -> None:
    """Export a checkpoint as a Hugging Face folder, verified against `transformers`."""
    from mmbert.hub.export import export_checkpoint

    comparison = export_checkpoint(
        checkpoint_of(checkpoint), out, dtype.value, say, allow_causal=allow_causal
    )
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

    answers = fill_masks(_model_folder(model), sentences, top=top, say=say)
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
    allow_causal: AllowCausal = False,
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
        comparison = merge_run(
            models[0], output, dtype=dtype.value, say=say, allow_causal=allow_causal
        )
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
            [checkpoint_of(path) for path in models],
            output,
            MergeOptions(
                method.value,
                tuple(weight or ()),
                MergeOptions.density if density is None else density,
                MergeOptions.decay if decay is None else decay,
            ),
            base=checkpoint_of(base) if base else None,
            dtype=dtype.value,
            say=say,
            allow_causal=allow_causal,
        )
    print(f"{output}: {comparison}")


def say(text: str) -> None:
    """Print on standard error."""
    print(text, file=sys.stderr)


def _model_folder(model: Path) -> Path:
    """Return the folder of a model given by folder or by name on the hub."""
    from mmbert.hub.hub_name import model_folder

    return model_folder(model, say)


def checkpoint_of(path: Path) -> Path:
    """Return the latest valid checkpoint of a run folder, or the folder of another model."""
    if not (path / "checkpoints").is_dir():
        return _model_folder(path)
    from mmbert.checkpoint.store import CheckpointStore

    newest = CheckpointStore(path / "checkpoints").latest_valid()
    if newest is None:
        raise CheckpointError(f"{path} has no checkpoint yet", remedy="train it first")
    return newest
