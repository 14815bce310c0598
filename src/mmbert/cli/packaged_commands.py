"""Commands for packaged files: `recipes`, `slurm-scripts`."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, examples
from mmbert.command_line.values import parse_path
from mmbert.errors import OutputError, RecipeError


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
    """Copy the Slurm batch scripts into a folder. Call sbatch from its parent folder."""
    packaged = Path(__file__).parents[1] / "slurm"
    if not packaged.is_dir():  # run from a repository, not installed
        packaged = Path(__file__).parents[3] / "slurm"
    files = sorted(path for path in packaged.iterdir() if path.suffix in (".bash", ".sbatch"))
    existing = [folder / file.name for file in files if (folder / file.name).exists()]
    if existing:
        raise OutputError(
            f"{existing[0]} already exists", remedy="name another folder, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        print(shutil.copyfile(file, folder / file.name))
