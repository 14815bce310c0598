"""What a decay was asked for, kept in decay.json: another decay does not go on in its place."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.decay.layout import DecayFolder
from mmbert.errors import ArgumentError, OutputError, ResumeError
from mmbert.files import make_folder, parse_json, write_json
from mmbert.ownership import is_owner_file
from mmbert.recipe import dump_recipe, load_recipe
from mmbert.recipe.named import recipe_names

FORMAT = 1


class Merge(BaseModel):
    """Merge after the training.

    `ties` merges the result with `onto`, relative to the start; `value` is the density. `linear`
    averages it with the start; `value` is its weight.
    """

    model_config = ConfigDict(frozen=True)

    method: Literal["none", "ties", "linear"]
    value: float = 0.0

    def __str__(self) -> str:
        return self.method if self.method == "none" else f"{self.method}:{self.value:g}"


class DecayRequest(BaseModel):
    """Arguments that determine the result; paths are absolute."""

    model_config = ConfigDict(frozen=True)

    model: str
    """Folder, or name on the hub."""
    state: str | None
    onto: str | None
    """Model that TIES merges the result with; None for other merges."""
    merge: Merge
    input: str
    old: str | None
    languages: tuple[str, ...]
    """Languages of `input` to train on; empty: all."""
    tokens: int | None
    recipe: str
    overrides: tuple[str, ...]
    recipe_checksum: str
    """Of the content of the recipe with the overrides."""
    preprocess: tuple[str, ...]
    """Further options of the preprocessing of `input`."""
    preprocess_old: tuple[str, ...]
    """Further options of the preprocessing of `old`."""


def parse_merge(text: str | None, *, state: bool, onto: bool) -> Merge:
    """Parse `--merge`; without it, TIES if there is a state, else none.

    Raises:
        ArgumentError: an unknown method, a value out of range, or a merge that lacks its base.
    """
    if onto and not state:
        raise ArgumentError(
            "--onto needs a common ancestor of both models, the training state given by --state",
            remedy="give --state, or mix the result with the model it starts from: "
            "--merge linear:0.5",
        )
    if text is None:
        return Merge(method="ties", value=0.5) if state else Merge(method="none")
    method, colon, number = text.partition(":")
    try:
        value = float(number) if colon else 0.5
    except ValueError:
        value = -1.0
    if method == "none" and not colon:
        merge = Merge(method="none")
    elif method == "ties" and 0 < value <= 1:
        merge = Merge(method="ties", value=value)
    elif method == "linear" and 0 < value < 1:
        merge = Merge(method="linear", value=value)
    else:
        raise ArgumentError(
            f"--merge {text} is not a merge",
            remedy="write none, ties:DENSITY (0 to 1) or linear:WEIGHT (between 0 and 1, that of "
            "the trained model)",
        )
    if merge.method == "ties" and not state:
        raise ArgumentError(
            "--merge ties needs a base, the training state given by --state",
            remedy="give --state, or --merge linear:0.5",
        )
    if onto and merge.method != "ties":
        raise ArgumentError(
            f"--onto does not apply to --merge {merge}", remedy="omit one of them, or merge by ties"
        )
    return merge


def absolute(name: str) -> str:
    """Return an existing path as an absolute one; a name or pattern unchanged."""
    path = Path(name)
    return str(path.absolute()) if path.exists() else name


def recipe_name(recipe: str) -> str:
    """Return the name of a packaged recipe unchanged, and a file as an absolute path."""
    return recipe if recipe in recipe_names() else absolute(recipe)


def recipe_checksum(recipe: str, overrides: Sequence[str]) -> str:
    """Return a checksum of a recipe with its overrides. Raises RecipeError if it is invalid."""
    text = dump_recipe(load_recipe(recipe, overrides))
    return hashlib.sha256(text.encode()).hexdigest()


def begin(folder: DecayFolder, request: DecayRequest) -> None:
    """Write the request to decay.json, if it may continue what the folder has.

    Raises:
        ResumeError: the folder is of another decay.
        OutputError: the folder is of something else.
    """
    check_folder(folder, request)
    if recorded_request(folder) == request:
        return
    make_folder(folder.path)
    write_json(folder.record, {"format": FORMAT, "request": request.model_dump(mode="json")})


def check_folder(folder: DecayFolder, request: DecayRequest) -> None:
    """Raise UserError unless the request may continue what the folder has, as `begin`."""
    kept = recorded_request(folder)
    if kept is not None and kept != request:
        check_same(folder, kept, request)
    if kept is not None or not folder.path.is_dir():
        return
    if any(not is_owner_file(path) for path in folder.path.iterdir()):
        raise OutputError(
            f"{folder.path} is not empty and not the output of a decay",
            remedy="give another OUTPUT, or remove the folder",
        )


def check_same(folder: DecayFolder, kept: DecayRequest, request: DecayRequest) -> None:
    """Raise ResumeError, naming the first difference, if finished stages depend on it.

    An argument may change until the stage that uses it has begun, so that a mistake can be
    corrected.
    """
    used = _used(folder)
    for name in DecayRequest.model_fields:
        before, now = getattr(kept, name), getattr(request, name)
        if before == now or name not in used:
            continue
        change = f"{name} was {_show(before)}, now it is {_show(now)}"
        if name == "recipe_checksum":
            change = f"the content of the recipe {request.recipe} has changed"
        remedy = "restore the argument to continue that decay, or give another OUTPUT"
        if name in _PLAN and not folder.run.exists():
            remedy += f"; or remove {folder.recipe} to plan anew"
        if name in ("merge", "onto"):
            remedy += f"; or remove {folder.model} to merge anew"
        raise ResumeError(f"{folder.path} is the output of another decay: {change}", remedy=remedy)


_PLAN = ("languages", "tokens", "recipe", "overrides", "recipe_checksum")


def _used(folder: DecayFolder) -> set[str]:
    """Return the arguments on which something in the folder depends."""
    begun = {
        ("model", "state"): folder.imported,
        ("input", "old", "preprocess", "preprocess_old"): folder.shards,
        _PLAN: folder.recipe,
        ("merge", "onto"): folder.model,
    }
    return {name for names, path in begun.items() if path.exists() for name in names}


def recorded_request(folder: DecayFolder) -> DecayRequest | None:
    """Read the request in decay.json; None if there is no such file. Raises ResumeError."""
    if not folder.record.is_file():
        return None
    try:
        values = parse_json(folder.record.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}")
        return DecayRequest.model_validate(values["request"])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(
            f"{folder.record} cannot be read: {str(error).splitlines()[0]}",
            remedy="restore it from a copy, or give another OUTPUT",
        ) from error


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "not given"
    return "not given" if value is None else str(value)
