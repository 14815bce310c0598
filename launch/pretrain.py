"""Pretrain an encoder: the script that `deepspeed`, `torchrun`, `srun` and `python` start."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmbert.errors import EXIT_USER_ERROR, UserError

EXAMPLES = """
Examples:

    deepspeed --num_gpus 2 launch/pretrain.py --recipe recipe.yaml --data shards --output run

    srun python launch/pretrain.py --recipe recipe.yaml --data shards --output run

    python launch/pretrain.py --recipe r.yaml --data d --output run phases.decay.mask_ratio=0.05

The same command, run again, continues. Status: 0 done, 2 wrong input, 75 saved: start again.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES, help="Train the recipe's phases on token shards.")
def pretrain(
    recipe: Annotated[Path, typer.Option(help="The recipe, a YAML file.")],
    data: Annotated[Path, typer.Option(help="The folder of token shards.")],
    output: Annotated[Path, typer.Option(help="The run's folder: checkpoints, logs, results.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value …", metavar="[KEY=VALUE]…")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Train this variant, from the run's checkpoint.")
    ] = None,
    stop_after_phase: Annotated[
        str | None, typer.Option(help="Leave at the end of this phase; start again to go on.")
    ] = None,
    profile_steps: Annotated[
        int, typer.Option(help="Trace this many steps of rank 0 into OUTPUT/profile.", min=0)
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and plan; train nothing.")
    ] = False,
    local_rank: Annotated[
        int | None, typer.Option("--local_rank", "--local-rank", hidden=True)
    ] = None,
) -> None:
    from mmbert.training.launcher_env import rank_info_from_env
    from mmbert.training.run_config import RunOptions, print_plan, resolve_run_config

    options = RunOptions(
        recipe, data, output, tuple(overrides or ()), variant, stop_after_phase, profile_steps
    )
    try:
        rank_info = rank_info_from_env(os.environ, local_rank)
        if dry_run:
            if rank_info.rank == 0:
                print_plan(
                    resolve_run_config(options, rank_info.world_size),
                    rank_info.world_size,
                    sys.stdout,
                )
            return
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    from mmbert.training.main import run_and_exit

    run_and_exit(options, rank_info)


if __name__ == "__main__":
    app()
