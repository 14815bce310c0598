"""Recipe loading: YAML, language files, overrides, and errors with file, line and key."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmbert.errors import RecipeError
from mmbert.files import read_text
from mmbert.recipe.named import find_language_list, find_recipe, language_list_names
from mmbert.recipe.phases import UNION_TAGS
from mmbert.recipe.recipe import Recipe

# Of a number of too many digits, an odd date, and brackets that are nested too deeply, too.
_YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)
_LONGEST_SHOWN = 200
# Steps of validation in the location of an error that are no keys.
_NOT_KEYS = ("function-before", "", *UNION_TAGS)
_UNWRITABLE = re.compile("[\\0\\ud800-\\udfff]")


def load_recipe(recipe: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name or path and apply `overrides` such as `phases.decay.mask_ratio=0.05`.

    Relative tokenizer paths are resolved from the recipe's folder, language lists from there or the
    package. Lists are read here, so that the result is self-contained.

    Raises:
        RecipeError: the recipe is missing or invalid.
    """
    path = find_recipe(recipe)
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}", remedy="check the file") from error
    return parse_recipe(text, overrides, folder=path.parent, origin=str(path))


def parse_recipe(
    text: str, overrides: Sequence[str] = (), *, folder: Path = Path(), origin: str = "recipe"
) -> Recipe:
    """Parse a recipe from YAML; its relative paths are resolved from `folder`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except _YAML_ERRORS as error:
        raise RecipeError(f"{origin} is not valid YAML: {error}", remedy="fix that line") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{origin} is not a recipe", remedy="see `mmbert recipes` for examples")
    for override in overrides:
        _apply_override(values, override)
    unwritable = _find_unwritable(values, set())
    if unwritable is not None:
        raise RecipeError(
            f"{origin}: {unwritable!a} is not text: it has half of a character, or a zero byte",
            remedy="write the value in UTF-8, without zero bytes",
        )
    _read_language_files(values, folder)
    _resolve_tokenizer_path(values, folder)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _user_error(error, values, root, origin) from error


def dump_recipe(recipe: Recipe) -> str:
    """Serialize a recipe to YAML that `parse_recipe` reads back to an equal recipe."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def override_recipe(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """Apply a variant's overrides, given by dotted key, and return the new recipe."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    for key, value in overrides.items():
        _set(values, key, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _user_error(error, values, None, f"recipe {recipe.name} with overrides") from error


def _find_unwritable(value: Any, seen: set[int]) -> str | None:
    """Return a string that UTF-8 or a path cannot express, of a path or an escape, or None.

    Args:
        seen: lists and mappings that were looked at, since anchors may repeat or nest them.
    """
    if isinstance(value, str):
        return value if _UNWRITABLE.search(value) else None
    if not isinstance(value, dict | list) or id(value) in seen:
        return None
    seen.add(id(value))
    members = [*value, *value.values()] if isinstance(value, dict) else value
    found = (_find_unwritable(member, seen) for member in members)
    return next((text for text in found if text is not None), None)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"override '{override}' is not key=value",
            remedy="write it as phases.decay.mask_ratio=0.05",
        )
    try:
        value = yaml.safe_load(text)
    except _YAML_ERRORS as error:
        raise RecipeError(
            f"the value of override '{_short(override)}' is not valid YAML: {_short(str(error))}",
            remedy="quote it as in a recipe, and the whole override for the shell",
        ) from error
    _set(values, key, value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; list entries are selected by `name` or position."""
    parts = key.split(".")
    target: Any = values
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        where = ".".join(parts[:depth]) or "the recipe"
        if isinstance(target, list):
            position = _position(target, part, where)
            if last:
                target[position] = value
            else:
                target = target[position]
        elif isinstance(target, dict):
            if last:
                target[part] = value
            else:
                if not isinstance(target.get(part), dict | list):
                    target[part] = {}
                target = target[part]


def _position(entries: list[Any], part: str, where: str) -> int:
    names = [str(entry.get("name")) if isinstance(entry, dict) else "" for entry in entries]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(entries):
        return int(part)
    nearest = difflib.get_close_matches(part, names, n=1, cutoff=0.0)
    hint = f"did you mean '{nearest[0]}'?" if nearest and nearest[0] else "it has no named entries"
    raise RecipeError(f"{where} has no entry '{part}'", remedy=hint)


def _read_language_files(values: dict[str, Any], folder: Path) -> None:
    phases, variants = (
        found if isinstance(found := values.get(key), list) else []
        for key in ("phases", "variants")
    )
    selections = [phase.get("languages") for phase in phases if isinstance(phase, dict)]
    for variant in variants:
        if isinstance(variant, dict) and isinstance(variant.get("overrides"), dict):
            overrides = variant["overrides"]
            selections += list(overrides.values())
            for key in [key for key in overrides if str(key).endswith(".languages.file")]:
                names = _read_language_list(str(overrides.pop(key)), folder)
                overrides[f"{str(key).removesuffix('file')}names"] = names
    for selection in selections:
        if isinstance(selection, dict) and isinstance(selection.get("file"), str):
            names, given = (
                _read_language_list(selection.pop("file"), folder),
                selection.get("names"),
            )
            if given is None or isinstance(given, list):  # others are refused as such
                selection["names"] = [*(given or []), *names]


def _read_language_list(file: str, folder: Path) -> list[str]:
    try:
        path = find_language_list(file, folder)
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"cannot read language file {folder / file}: {getattr(error, 'strerror', error)}",
            remedy="give a file with one language per line, relative to the recipe, or a list "
            f"of the package: {', '.join(language_list_names())}",
        ) from error
    names = [line.split("#")[0].strip() for line in lines]
    return [name for name in names if name]


def _resolve_tokenizer_path(values: dict[str, Any], folder: Path) -> None:
    tokenizer = values.get("tokenizer")
    if isinstance(tokenizer, dict) and isinstance(tokenizer.get("path"), str) and tokenizer["path"]:
        tokenizer["path"] = str((folder / tokenizer["path"]).resolve())


def _user_error(
    error: ValidationError, values: dict[str, Any], root: yaml.Node | None, origin: str
) -> RecipeError:
    """Combine all validation errors in one message, with line and key (entries by name)."""
    messages = []
    mistakes = error.errors()
    # pydantic also reports a tuple whose only entry is invalid as too short: not a separate error.
    for mistake in [m for m in mistakes if m["type"] != "too_short"] or mistakes:
        location = [part for part in mistake["loc"] if part not in _NOT_KEYS]
        line = _line(root, location)
        key = _key(values, location)
        where = f"{origin}:{line}" if line else origin
        text = mistake["msg"].removeprefix("Value error, ")
        messages.append(f"{where}: {key}: {text}" if key else f"{where}: {text}")
    return RecipeError("\n".join(messages), remedy="fix the recipe or the override and run again")


def _key(values: Any, location: Sequence[int | str]) -> str:
    parts = []
    for part in location:
        entry = None
        if isinstance(values, list) and isinstance(part, int) and part < len(values):
            entry = values[part]
        elif isinstance(values, dict):
            entry = values.get(part)
        name = entry.get("name") if isinstance(part, int) and isinstance(entry, dict) else None
        parts.append(str(name or part))
        values = entry
    return ".".join(parts)


def _line(node: yaml.Node | None, location: Sequence[int | str]) -> int | None:
    if node is None:
        return None
    for part in location:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((v for k, v in node.value if k.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = node.value[part] if part < len(node.value) else None
        if found is None:
            break
        node = found
    return node.start_mark.line + 1
