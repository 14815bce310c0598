"""Training command line: `--module mmbert.pretrain` under a launcher, or launch/pretrain.py."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmbert.command_line.running import run_application
from mmbert.command_line.values import parse_output_folder, parse_path
from mmbert.errors import UserError
from mmbert.waiting_threads import sleep_while_waiting

EXAMPLES = """
Examples:

    deepspeed --num_gpus 8 --module mmbert.pretrain --recipe mmbert-base --data shards --output run

    srun python -m mmbert.pretrain --recipe recipe.yaml --data shards --output run

    deepspeed --num_gpus 2 launch/pretrain.py --recipe demo --data demo/shards --output demo/run

    python -m mmbert.pretrain --recipe demo --data d --output r phases.decay.mask_ratio=0.05

Run the same command again to resume. Exit status: 0 done, 2 invalid input, 75 saved, run it again.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES, help="Train the phases of a recipe on token shards.")
def pretrain(
    recipe: Annotated[
        str, typer.Option(help="Name of a packaged recipe (`mmbert recipes`), or a YAML file.")
    ],
    data: Annotated[Path, typer.Option(parser=parse_path, help="Folder of token shards.")],
    output: Annotated[
        Path,
        typer.Option(parser=parse_output_folder, help="Run folder: checkpoints, logs, results."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides of the recipe.", metavar="[KEY=VALUE]…")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Train this variant from the main run's checkpoint.")
    ] = None,
    stop_after_phase: Annotated[
        str | None, typer.Option(help="Exit at the end of this phase; run again to go on.")
    ] = None,
    profile_steps: Annotated[
        int,
        typer.Option(help="Trace this many steps of rank 0 into OUTPUT/profile.", min=0, max=1000),
    ] = 0,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take the run folder from the process that writes it."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and plan, and exit.")
    ] = False,
    local_rank: Annotated[
        int | None, typer.Option("--local_rank", "--local-rank", hidden=True, min=0, max=65535)
    ] = None,
) -> None:
    # Imported here: `--help` should not wait for torch.
    from mmbert.recipe import describe_recipe
    from mmbert.training.launch.mpi_address import address_of_rank_zero
    from mmbert.training.launcher_env import rank_info_from_env
    from mmbert.training.run_config import RunOptions, print_plan, resolve_run_config

    options = RunOptions(
        recipe,
        data,
        output,
        tuple(overrides or ()),
        variant,
        stop_after_phase,
        profile_steps,
        take_over,
    )
    rank_info = rank_info_from_env(os.environ, local_rank, address_from_mpi=address_of_rank_zero)
    if rank_info.rank == 0:
        # An unknown recipe is reported below, by all ranks together.
        with contextlib.suppress(UserError):
            print(f"{'# ' if dry_run else ''}{describe_recipe(recipe)}", flush=True)
    if dry_run:
        if rank_info.rank == 0:
            print_plan(
                resolve_run_config(options, rank_info.world_size), rank_info.world_size, sys.stdout
            )
        return
    from mmbert.training.main import run_and_exit

    run_and_exit(options, rank_info)


def main() -> None:
    """Run the command line; exits with the status of the run."""
    sleep_while_waiting()
    sys.exit(run_application(app))


if __name__ == "__main__":
    main()
