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
