"""Commands for what comes with the package: `recipes`, `slurm-scripts`, `fault-drill`."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples
from mmbert.command_line.values import parse_output_folder, parse_path
from mmbert.errors import EXIT_FAILURE, ArgumentError, OutputError, RecipeError


@app.command(epilog=examples("mmbert recipes", "mmbert recipes mmbert-base > my-recipe.yaml"))
def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print as YAML.")] = None,
) -> None:
    """List the packaged recipes, or print one as a starting point for your own."""
    from mmbert.recipe.named import find_recipe, language_list_names, recipe_names

    if name is not None:
        path = find_recipe(name)
        if name not in recipe_names():
            raise RecipeError(
                f"{name} is not a recipe of the package",
                remedy=f"its recipes: {', '.join(recipe_names())}",
            )
        print(path.read_text(encoding="utf-8"), end="")
        return
    names = recipe_names()
    width = max(map(len, names))
    for known in names:
        first_line = find_recipe(known).read_text(encoding="utf-8").partition("\n")[0]
        print(f"{known:{width}}  {first_line.removeprefix('# ')}")
    print(f"language lists: {', '.join(language_list_names())}")


@app.command(
    name="slurm-scripts",
    epilog=examples(
        "mmbert slurm-scripts slurm",
        "sbatch --nodes=8 --gpus-per-node=8 slurm/pretrain.sbatch mmbert-base my_shards my_run",
    ),
)
def slurm_scripts(
    folder: Annotated[Path, typer.Argument(parser=parse_path, help="Folder to copy to.")] = Path(
        "slurm"
    ),
) -> None:
    """Copy the Slurm scripts into a folder. Call submit.sh there, or sbatch from its parent."""
    packaged = packaged_scripts()
    files = [
        path.relative_to(packaged)
        for path in (*sorted(packaged.iterdir()), *sorted(packaged.glob("sites/*.yaml")))
        if path.suffix in (".bash", ".sbatch", ".sh") or path.parent != packaged
    ]
    existing = [folder / file for file in files if (folder / file).exists()]
    if existing:
        raise OutputError(
            f"{existing[0]} already exists", remedy="name another folder, or remove it"
        )
    (folder / "sites").mkdir(parents=True, exist_ok=True)
    for file in files:
        print(shutil.copyfile(packaged / file, folder / file))
        if file.suffix == ".sh":
            (folder / file).chmod(0o755)


def packaged_scripts() -> Path:
    """Return the folder of the Slurm scripts in the package or the repository."""
    installed = Path(__file__).parents[1] / "slurm"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "slurm"


@app.command(
    name="fault-drill",
    epilog=examples(
        "mmbert fault-drill drill",
        "mmbert fault-drill drill --yes",
        "DS_ACCELERATOR=cpu mmbert fault-drill drill --yes --only kill --only bit-flip",
    ),
)
def fault_drill(
    output: Annotated[
        Path,
        typer.Argument(
            parser=parse_output_folder,
            help="New or empty folder: all files go below it; fault-drill.json remains.",
        ),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this, only print what would be done.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="Try only this fault; repeatable.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the runs and their output, too.")
    ] = False,
) -> None:
    """Disturb a small run on this machine in all ways that a long one has to survive.

    Kills, suspends and preempts its own processes, limits the size of its own files, damages its
    own checkpoints and cuts its own connections; continues the run after each fault, and compares
    losses and weights with those of an undisturbed run. Needs no rights and no Slurm. Exit status:
    0 all survived, 1 a fault was not survived (its files stay), 2 without `--yes`.
    """
    import time

    from mmbert.fault_drill.device import find_device
    from mmbert.fault_drill.drill import WORK_NAME, check_output, run_drill
    from mmbert.fault_drill.faults import select_faults
    from mmbert.fault_drill.outcome import DrillOutcome, render, write_outcome

    faults = select_faults(tuple(only or ()))
    output = output.absolute()
    check_output(output)
    device = find_device()
    compared = f"to within {device.tolerance:g}" if device.tolerance else "to the bit"
    print(f"a run of 24 steps, with {device.ranks} ranks on {device.name}; after each fault it is")
    print(f"continued and compared {compared} with an undisturbed one. All files are below")
    print(f"{output / WORK_NAME}, which is removed at the end. The faults:")
    for fault in faults:
        print(f"  {fault.name}: {fault.does}; then {fault.expects}")
    if not yes:
        sys.stdout.flush()
        raise ArgumentError("nothing was done", remedy="to do it, add --yes")
    begin = time.monotonic()
    outcomes = run_drill(
        output, faults, device, keep=keep, tell=lambda line: print(line, flush=True)
    )
    console = console_for_output()
    console.print(render(outcomes))
    survived = all(one.survived is not False for one in outcomes)
    result = DrillOutcome(
        device=device.name,
        ranks=device.ranks,
        tolerance=device.tolerance,
        seconds=round(time.monotonic() - begin, 1),
        survived=survived,
        faults=outcomes,
    )
    console.print(f"Results: {write_outcome(result, output)}")
    if not survived:
        console.print(f"The runs and their output are in {output / WORK_NAME}")
        raise typer.Exit(EXIT_FAILURE)
