"""`mmbert ablate`: train a recipe with and without each of its ideas."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples
from mmbert.command_line.values import number, parse_output_folder, parse_path


@app.command(
    epilog=examples(
        "mmbert ablate recipe.yaml --data my_shards --output ablations --dry-run",
        "mmbert ablate recipe.yaml --data my_shards --output ablations --only constant-mask "
        "--launch 'deepspeed --num_gpus 8 --module mmbert.pretrain' phases.pretrain.tokens=20B",
        "DS_ACCELERATOR=cpu mmbert ablate demo --data demo/shards --output demo/ablations "
        "--launch 'deepspeed --num_gpus 2 --module mmbert.pretrain'",
    )
)
def ablate(
    recipe: Annotated[
        str, typer.Argument(help="Packaged recipe (see `mmbert recipes`) or YAML file.")
    ],
    data: Annotated[Path, typer.Option(parser=parse_path, help="Folder of token shards.")],
    output: Annotated[
        Path,
        typer.Option(
            parser=parse_output_folder, help="Folder for the run folders and ablations.json."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(help="Runs per ablation; seeds count up from the recipe's.", min=1, max=100),
    ] = 3,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only this ablation and the full recipe; repeatable."),
    ] = None,
    launch: Annotated[
        str, typer.Option(help="Command that launches a training run.")
    ] = "deepspeed --module mmbert.pretrain",
    mask_ratio: Annotated[
        float,
        typer.Option(
            parser=number(ge=0.01, le=0.99),
            min=0.01,
            max=0.99,
            help="Fraction of held-out tokens to mask in every run.",
        ),
    ] = 0.15,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print ablations and runs without training.")
    ] = False,
) -> None:
    """Ablate the ideas of a recipe: train with and without each, compare held-out losses.

    Ablated are the falling mask ratio, the falling temperature, late languages and the decay
    phase. Differences are paired by seed. Finished runs are not repeated. Exit status 75: stopped
    after saving, repeat the command to continue; a failed run passes its own status on.
    """
    from mmbert.ablation.ablations import all_ablations, select_ablations
    from mmbert.ablation.comparison import check_data, evaluate_runs, render
    from mmbert.ablation.runs import plan_runs, train_all
    from mmbert.launching import RunIncompleteError, launcher_command
    from mmbert.recipe import load_recipe
    from mmbert.schedule import training_plan

    console = console_for_output()
    command = launcher_command(launch)
    given = list(overrides or ())
    resolved = load_recipe(recipe, given)
    ablations = select_ablations(resolved, only or ())
    runs = plan_runs(recipe, given, ablations, seeds, output)
    check_data(runs, data)
    for ablation in ablations:
        print(f"{ablation.name}: {ablation.meaning}")
        for override in ablation.for_display():
            print(f"    {override}")
    for ablation in all_ablations(resolved)[1:]:
        if not ablation.overrides:
            print(f"{ablation.name}: skipped, the recipe has nothing to change there")
    plan = training_plan(resolved)
    left = [run for run in runs if run.final_checkpoint() is None]
    print(
        f"{len(runs)} runs ({len(ablations)} × {seeds} seeds), each {plan.steps:,} steps and "
        f"{plan.tokens:,} tokens; remaining: {len(left)} runs, "
        f"{sum(run.tokens for run in left):,} tokens (phases shared with the full recipe are "
        "trained once)"
    )
    if dry_run:
        return
    try:
        train_all(runs, command, recipe, data, given, console)
    except RunIncompleteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.status) from error
    comparison = evaluate_runs(runs, data, mask_ratio)
    console.print(render(comparison))
    console.print(f"Results: {comparison.write(output)}", soft_wrap=True, markup=False)
