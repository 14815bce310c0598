"""Sources of a call, from `--source`, `--input`, `--sources-in` and the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmbert.errors import ArgumentError
from mmbert.recipe import Recipe

_WAYS = (
    "give --input FOLDER for one source, --source NAME=FOLDER for each of several, or --recipe and "
    "--sources-in FOLDER"
)


def named_inputs(
    names: Sequence[str], input_: str | None, sources_in: Path | None, recipe: Recipe | None
) -> list[tuple[str | None, str]]:
    """Return (source, input) of each source, in the given order; None for the default source.

    `names`: values of `--source`, NAME or NAME=FOLDER. Raises ArgumentError if the options do not
    fit together, or name a source twice.
    """
    found: list[tuple[str | None, str]]
    if sources_in is not None:
        if names or input_ is not None:
            raise ArgumentError("--sources-in excludes --input and --source", remedy=_WAYS)
        found = _below(sources_in, recipe)
    elif any("=" in name for name in names):
        found = _pairs(names, input_)
    elif input_ is None:
        raise ArgumentError("no text is named", remedy=_WAYS)
    elif len(names) > 1:
        raise ArgumentError(
            f"--input is the text of one source, not of {', '.join(names)}", remedy=_WAYS
        )
    else:
        found = [(names[0] if names else None, input_)]
    if recipe is not None:
        found = [(source_folder(recipe, name), text) for name, text in found]
    sources = [name for name, _ in found]
    twice = [name for name in dict.fromkeys(sources) if sources.count(name) > 1]
    if twice:
        raise ArgumentError(
            f"the source {twice[0]} is given {sources.count(twice[0])} times",
            remedy="give each source once; several folders of one are one --input, such as a "
            "folder above them or a quoted pattern",
        )
    return found


def _pairs(names: Sequence[str], input_: str | None) -> list[tuple[str | None, str]]:
    if input_ is not None:
        raise ArgumentError("--source NAME=FOLDER excludes --input", remedy=_WAYS)
    found: list[tuple[str | None, str]] = []
    for pair in names:
        name, _, text = pair.partition("=")
        if not name or not text:
            raise ArgumentError(
                f"--source {pair}: a name, = and a folder are needed",
                remedy="write NAME=FOLDER, such as web=my_corpus/web, for every source",
            )
        found.append((name, text))
    return found


def _below(root: Path, recipe: Recipe | None) -> list[tuple[str | None, str]]:
    """Return the folder of text below `root` of each source of the recipe, in its order."""
    if recipe is None:
        raise ArgumentError(
            "--sources-in takes the sources from a recipe", remedy="name it with --recipe"
        )
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    names = [source.name for source in recipe.data.sources]
    missing = [name for name in names if name not in there]
    if missing:
        raise ArgumentError(
            f"{root} has no folder {', '.join(missing)}, as sources of the recipe are called "
            f"(its folders: {', '.join(there) or 'none'})",
            remedy="name the folders as the sources, or give --source NAME=FOLDER for each source "
            "that you have",
        )
    return [(name, str(root / name)) for name in names]


def unread_folders(root: Path, recipe: Recipe) -> list[str]:
    """Return the folders below `root` that are called as no source of the recipe."""
    names = {source.name for source in recipe.data.sources}
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in names)


def source_folder(recipe: Recipe, name: str | None) -> str:
    """Return the folder of the recipe source `name`.

    `name` defaults to the only source, or to the only multilingual (temperature-sampled) one.
    """
    sources = recipe.data.sources
    folders = {source.name: str(source.path or source.name) for source in sources}
    if name is None:
        multilingual = [source for source in sources if source.sampling == "temperature"]
        candidates = sources if len(sources) == 1 else multilingual
        if len(candidates) == 1:
            return folders[candidates[0].name]
    if name not in folders:
        raise ArgumentError(
            f"the recipe has the sources {', '.join(folders)}"
            + (f", not {name}" if name else "; it is unclear which one this input is"),
            remedy="name one of them with --source",
        )
    return folders[name]
