"""`mmbert ablate` and `tune`: train variations of a recipe and compare their held-out losses."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbert.cli.app import app, console_for_output, examples
from mmbert.command_line.values import number, parse_output_folder, parse_path, tokens_from


class Equal(StrEnum):
    """What the runs of a comparison have in common."""

    TOKENS = "tokens"
    FLOPS = "flops"


LAUNCHER = "deepspeed --module mmbert.pretrain"

RecipeName = Annotated[
    str, typer.Argument(help="Packaged recipe (see `mmbert recipes`) or YAML file.")
]
Shards = Annotated[Path, typer.Option(parser=parse_path, help="Folder of token shards.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
]
Launch = Annotated[str, typer.Option(help="Command that launches a training run.")]
MaskRatio = Annotated[
    float,
    typer.Option(
        parser=number(ge=0.01, le=0.99),
        min=0.01,
        max=0.99,
        help="Fraction of held-out tokens to mask in every run.",
    ),
]


@app.command(
    epilog=examples(
        "mmbert ablate recipe.yaml --data my_shards --output ablations --dry-run",
        "mmbert ablate recipe.yaml --data my_shards --output ablations --only constant-mask "
        "--launch 'deepspeed --num_gpus 8 --module mmbert.pretrain' phases.pretrain.tokens=20B",
        "mmbert ablate recipe.yaml --data my_shards --output ablations --equal flops "
        "--threshold 0.02 --variation 'low-rate optimizer.learning_rate=1e-4'",
        "DS_ACCELERATOR=cpu mmbert ablate demo --data demo/shards --output demo/ablations "
        "--launch 'deepspeed --num_gpus 2 --module mmbert.pretrain'",
    )
)
def ablate(
    recipe: RecipeName,
    data: Shards,
    output: Annotated[
        Path,
        typer.Option(
            parser=parse_output_folder, help="Folder for the run folders and ablations.json."
        ),
    ],
    overrides: Overrides = None,
    seeds: Annotated[
        int,
        typer.Option(help="Runs per ablation; seeds count up from the recipe's.", min=1, max=100),
    ] = 3,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only this ablation and the full recipe; repeatable."),
    ] = None,
    variation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME KEY=VALUE…'",
            help="Compare the recipe with these overrides, instead of its ablations; repeatable.",
        ),
    ] = None,
    variations: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="YAML file of more variations: NAME: {meaning: …, overrides: [KEY=VALUE, …]}.",
        ),
    ] = None,
    equal: Annotated[
        Equal,
        typer.Option(
            help="What the runs have in common: tokens, or training FLOPs, to which the tokens of "
            "changed phases are scaled."
        ),
    ] = Equal.TOKENS,
    threshold: Annotated[
        float | None,
        typer.Option(
            parser=number(gt=0, le=100),
            help="Difference in nats that counts, instead of two standard errors; written to "
            "ablations.json before any run of an ablation.",
        ),
    ] = None,
    launch: Launch = LAUNCHER,
    mask_ratio: MaskRatio = 0.15,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print ablations and runs without training.")
    ] = False,
) -> None:
    """Ablate the ideas of a recipe: train with and without each, compare held-out losses.

    Ablated are the falling mask ratio, the falling temperature, late languages and the decay
    phase, or variations of yours. Differences are paired by seed. Finished runs are not repeated.
    Exit status 75: stopped after saving, repeat the command to continue; a failed run passes its
    own status on.
    """
    from mmbert.ablation.ablations import all_ablations, select_ablations
    from mmbert.ablation.comparison import check_data, evaluate_runs
    from mmbert.ablation.equal_flops import at_equal_flops, training_cost
    from mmbert.ablation.runs import plan_runs, train_all
    from mmbert.ablation.tables import describe_spread, render
    from mmbert.ablation.threshold import keep_threshold
    from mmbert.ablation.variations import parse_variations
    from mmbert.launching import RunIncompleteError, launcher_command
    from mmbert.recipe import load_recipe

    console = console_for_output()
    command = launcher_command(launch)
    given = list(overrides or ())
    resolved = load_recipe(recipe, given)
    own = parse_variations(variation or (), variations)
    ablations = select_ablations(resolved, only or (), own)
    if equal is Equal.FLOPS:
        ablations = at_equal_flops(recipe, given, ablations, data)
    runs = plan_runs(recipe, given, ablations, seeds, output)
    check_data(runs, data)
    costs = {}
    for ablation in ablations:
        print(f"{ablation.name}: {ablation.meaning}")
        for override in ablation.for_display():
            print(f"    {override}")
        first = next(run for run in runs if run.ablation == ablation)
        costs[ablation.name] = cost = training_cost(first.recipe, data)
        print(f"    {cost.steps:,} steps, {cost.tokens:,} tokens, {cost.flops:.4g} FLOPs")
    for ablation in all_ablations(resolved)[1:]:
        if not ablation.overrides and not own:
            print(f"{ablation.name}: skipped, the recipe has nothing to change there")
    left = [run for run in runs if run.final_checkpoint() is None]
    print(
        f"{len(runs)} runs ({len(ablations)} × {seeds} seeds); remaining: {len(left)} runs, "
        f"{sum(run.tokens for run in left):,} tokens (phases shared with the full recipe are "
        "trained once)"
    )
    if dry_run:
        return
    kept = keep_threshold(threshold, runs, output, mask_ratio)
    try:
        train_all(runs, command, recipe, data, given, console)
    except RunIncompleteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.status) from error
    comparison = evaluate_runs(
        runs,
        data,
        mask_ratio,
        costs=costs,
        equal="flops" if equal is Equal.FLOPS else "tokens",
        threshold=kept,
    )
    console.print(render(comparison))
    if found := describe_spread(comparison):
        console.print(found, markup=False)
    console.print(f"Results: {comparison.write(output)}", soft_wrap=True, markup=False)


@app.command(
    epilog=examples(
        "mmbert tune recipe.yaml --data my_shards --output tuning --tokens 1M "
        "--search optimizer.learning_rate=1.25e-4,2.5e-4,5e-4,1e-3",
    )
)
def tune(
    recipe: RecipeName,
    data: Shards,
    output: Annotated[
        Path,
        typer.Option(
            parser=parse_output_folder, help="Folder for the run folders and tuning.json."
        ),
    ],
    search: Annotated[
        list[str],
        typer.Option(
            metavar="KEY[+KEY]=V1,V2,…",
            help="Key, or keys that get the same value, and two or more values, ascending; "
            "repeatable: later searches keep the best values of earlier ones.",
        ),
    ],
    overrides: Overrides = None,
    tokens: Annotated[
        Any,
        typer.Option(
            parser=tokens_from(1),
            metavar="TOKENS",
            help="Tokens of a run, to which phases, warm-ups and decays are scaled. Default: the "
            "recipe's.",
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Runs of a search, at most.", min=3, max=100)] = 12,
    launch: Launch = LAUNCHER,
    mask_ratio: MaskRatio = 0.15,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print searches and the length of a run.")
    ] = False,
) -> None:
    """Tune rates at a small budget: train with each value, from low ones up, until the loss rises.

    A search ends when its best value has a worse one on both sides; it goes beyond the values that
    are given where the lowest or the highest is best. Finished runs are not repeated. Exit status
    1: a best value is not bracketed; 75: stopped after saving, repeat the command to continue; a
    failed run passes its own status on.
    """
    from mmbert.ablation.comparison import check_held_out
    from mmbert.ablation.search import parse_search
    from mmbert.ablation.tuning import RESULT_NAME, Tuner, render, shortened
    from mmbert.launching import RunIncompleteError, launcher_command
    from mmbert.recipe import load_recipe
    from mmbert.schedule import training_plan

    console = console_for_output()
    command = launcher_command(launch)
    searches = [parse_search(text) for text in search]
    given = tuple(overrides or ())
    if tokens is not None:
        given += shortened(load_recipe(recipe, given), tokens)
    for one in searches:
        load_recipe(recipe, [*given, *one.overrides(one.values[0])])
    check_held_out(data)
    plan = training_plan(load_recipe(recipe, given))
    for one in searches:
        print(f"{one.name}: from {one.values[0]:g} upwards, at most {most} runs")
    print(f"each run {plan.steps:,} steps, {plan.tokens:,} tokens")
    if dry_run:
        return
    tuner = Tuner(recipe, given, data, output, command, mask_ratio, most, console)
    try:
        found = tuner.tune(searches)
    except RunIncompleteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.status) from error
    console.print(render(found))
    console.print(f"Best: {' '.join(found.best)}", soft_wrap=True, markup=False)
    if found.unigram is not None:
        console.print(f"A unigram model's loss: {found.unigram:.4f}")
    console.print(f"Results: {output / RESULT_NAME}", soft_wrap=True, markup=False)
    if not all(result.bracketed for result in found.searches):
        print(
            f"error: no value between worse ones in {most} runs\n"
            "  → widen the values, or allow more runs with --most",
            file=sys.stderr,
        )
        raise typer.Exit(1)
