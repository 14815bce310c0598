"""Packaged recipes and language lists, and their lookup by name."""

import difflib
import warnings
from pathlib import Path

from mmbert.errors import RecipeError

PACKAGED = Path(__file__).parents[1] / "recipes"
_LISTS = PACKAGED / "languages"
_OLD_FOLDER = ("launch", "recipes")


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, sorted."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def language_list_names() -> list[str]:
    """Return the names of the packaged language lists, sorted."""
    return sorted(path.stem for path in _LISTS.glob("*.txt"))


def packaged_languages() -> frozenset[str]:
    """Return the languages of all packaged lists, as written there (codes without a script)."""
    lines = (line for path in _LISTS.glob("*.txt") for line in path.read_text("utf-8").splitlines())
    return frozenset(name for line in lines if (name := line.split("#")[0].strip()))


def find_recipe(recipe: Path | str) -> Path:
    """Return the file of a recipe given by name or by path.

    A packaged recipe takes precedence over a file or folder of the same name in the working
    directory (given as `./demo`), so that a command does not depend on where it is started. A
    `Path` is never interpreted as a name.

    Raises:
        RecipeError: `recipe` is neither the name of a packaged recipe nor an existing file.
    """
    names = recipe_names()
    if isinstance(recipe, str) and recipe in names:
        return PACKAGED / f"{recipe}.yaml"
    path = Path(recipe)
    if path.exists():
        return path
    moved = _moved(path, named=path.stem)
    if moved is not None:
        return moved
    listed = f"recipes of the package: {', '.join(names)}"
    if path.stem in names:
        raise RecipeError(
            f"no recipe at {path}",
            remedy=f"check the path, or give {path.stem} for the package's recipe of that name",
        )
    if isinstance(recipe, str) and path.name == recipe and path.suffix not in (".yaml", ".yml"):
        nearest = difflib.get_close_matches(recipe, names, n=1)
        hint = f"did you mean '{nearest[0]}'? " if nearest else ""
        raise RecipeError(
            f"no recipe or file named '{recipe}'",
            remedy=f"{hint}{listed}; or give the path of a YAML file",
        )
    raise RecipeError(f"no recipe at {path}", remedy=f"check the path; {listed}")


def describe_recipe(recipe: Path | str) -> str:
    """Describe the file of a recipe name or path in one line. Raises RecipeError without one."""
    path = find_recipe(recipe)
    return f"recipe: {path}" if str(path) == str(recipe) else f"recipe: {recipe} ({path})"


def find_language_list(file: str, folder: Path) -> Path:
    """Return the path of a recipe's language list, in the recipe's folder or the package.

    `languages/mmbert-60.txt` and `mmbert-60` both name a packaged list, so that a copy of a
    packaged recipe works unchanged. For a missing list, returns the path in the recipe's folder.
    """
    beside = folder / file
    if beside.is_file():
        return beside
    moved = _moved(beside, named=f"languages/{beside.name}")
    candidates = [moved] if moved else [PACKAGED / file, _LISTS / f"{file}.txt"]
    return next((path for path in candidates if path.is_file()), beside)


def _moved(path: Path, *, named: str) -> Path | None:
    """Return the new location of a file that was in launch/recipes up to version 0.1."""
    parts = path.parts
    for end in range(2, len(parts)):
        if parts[end - 2 : end] == _OLD_FOLDER:
            new = PACKAGED.joinpath(*parts[end:])
            if new.is_file():
                warnings.warn(
                    f"{path} is now part of the package: write {named} instead (paths into "
                    "launch/recipes work until 0.3.0)",
                    FutureWarning,
                    stacklevel=2,
                )
                return new
    return None
