"""The command that trains a recipe with and without each of its ideas."""

from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output


@app.command(
    epilog="Examples: `mmbert ablate recipe.yaml --data my_shards --output ablations --dry-run`, "
    "`mmbert ablate recipe.yaml --data my_shards --output ablations --only constant-mask "
    "--launch 'deepspeed --num_gpus 8 --module mmbert.pretrain' phases.pretrain.tokens=20B`, "
    "`DS_ACCELERATOR=cpu mmbert ablate demo --data demo/shards "
    "--output demo/ablations --launch 'deepspeed --num_gpus 2 --module mmbert.pretrain'`"
)
def ablate(
    recipe: Annotated[
        str, typer.Argument(help="Name of a packaged recipe (`mmbert recipes`), or a YAML file.")
    ],
    data: Annotated[Path, typer.Option(help="The folder of token shards.")],
    output: Annotated[Path, typer.Option(help="Where each run gets its folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Runs of each, with seeds from the recipe's on.", min=1)
    ] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this ablation, beside the full recipe.")
    ] = None,
    launch: Annotated[
        str, typer.Option(help="How a training is started.")
    ] = "deepspeed --module mmbert.pretrain",
    mask_ratio: Annotated[
        float,
        typer.Option(help="Share of held-out tokens masked, the same for all.", min=0.01, max=0.99),
    ] = 0.15,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the variations and runs; train nothing.")
    ] = False,
) -> None:
    """Train a recipe and one ablation without each of its ideas; compare their held-out losses.

    Falling mask ratio, falling temperature, late languages, the decay phase: does each help on
    this text at this size? Differences are paired by seed. What has ended is not repeated; status
    75 is saved, start again; that of a failing run is passed on.
    """
    from mmbert.ablation.ablations import all_ablations, select_ablations
    from mmbert.ablation.comparison import check_data, evaluate_runs, render
    from mmbert.ablation.runs import RunIncompleteError, launcher_command, plan_runs, train_all
    from mmbert.recipe import load_recipe
    from mmbert.schedule import training_plan

    console = console_for_output()
    given = list(overrides or ())
    resolved = load_recipe(recipe, given)
    ablations = select_ablations(resolved, only or ())
    runs = plan_runs(recipe, given, ablations, seeds, output)
    check_data(runs, data)
    for ablation in ablations:
        typer.echo(f"{ablation.name}: {ablation.meaning}")
        for override in ablation.for_display():
            typer.echo(f"    {override}")
    for ablation in all_ablations(resolved)[1:]:
        if not ablation.overrides:
            typer.echo(f"{ablation.name}: left out, the recipe has nothing to change there")
    plan = training_plan(resolved)
    left = [run for run in runs if run.final_checkpoint() is None]
    typer.echo(
        f"{len(runs)} runs ({len(ablations)} × {seeds} seeds) of {plan.steps:,} steps and "
        f"{plan.tokens:,} tokens each; {len(left)} are left, {sum(run.tokens for run in left):,} "
        "tokens (phases that are the full recipe's are trained once)"
    )
    if dry_run:
        return
    try:
        train_all(runs, launcher_command(launch), recipe, data, given, console)
    except RunIncompleteError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.status) from error
    comparison = evaluate_runs(runs, data, mask_ratio)
    console.print(render(comparison))
    console.print(f"Results: {comparison.write(output)}", soft_wrap=True)
