"""Ablations that the user gives: named lists of overrides, on the command line or in a file."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmbert.ablation.ablations import Ablation
from mmbert.errors import ArgumentError
from mmbert.files import read_text
from mmbert.launching import split_words

_NAME = re.compile(r"\w[\w.-]*")
_EXAMPLE = "write it as 'NAME KEY=VALUE …', such as 'low-rate optimizer.learning_rate=1e-4'"
_FILE_EXAMPLE = (
    "write it as NAME: {meaning: …, overrides: [KEY=VALUE, …]}, one entry for each variation"
)


class _Entry(BaseModel):
    """Variation in a file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overrides: list[str] = Field(min_length=1)
    meaning: str = ""


def parse_variations(given: Sequence[str], file: Path | None) -> tuple[Ablation, ...]:
    """Return the variations of `--variation` and of the file of `--variations`, in this order.

    Raises:
        ArgumentError: one is malformed, or two have the same name.
    """
    found = [_parse(text) for text in given]
    if file is not None:
        found += _read(file)
    names = [variation.name for variation in found]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(
                f"two variations are named '{name}'", remedy="give each a name of its own"
            )
    return tuple(found)


def _parse(text: str) -> Ablation:
    words = split_words("--variation", text)
    if len(words) < 2:
        raise ArgumentError(f"--variation '{text}' has no overrides", remedy=_EXAMPLE)
    return _variation(words[0], "", words[1:], f"--variation '{text}'", _EXAMPLE)


def _read(path: Path) -> list[Ablation]:
    try:
        values = yaml.safe_load(read_text(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ArgumentError(
            f"--variations {path} cannot be read: {error}", remedy=_FILE_EXAMPLE
        ) from error
    if not isinstance(values, dict) or not values:
        raise ArgumentError(f"--variations {path} has no variations", remedy=_FILE_EXAMPLE)
    found = []
    for name, value in values.items():
        where = f"--variations {path}: '{name}'"
        try:
            entry = _Entry.model_validate(value)
        except ValidationError as error:
            mistake = error.errors()[0]
            key = ".".join(map(str, mistake["loc"]))
            text = f"{where}: {key}: {mistake['msg']}" if key else f"{where}: {mistake['msg']}"
            raise ArgumentError(text, remedy=_FILE_EXAMPLE) from error
        found.append(_variation(str(name), entry.meaning, entry.overrides, where, _FILE_EXAMPLE))
    return found


def _variation(
    name: str, meaning: str, overrides: Sequence[str], where: str, remedy: str
) -> Ablation:
    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"{where}: the name must be letters, digits, '.', '-' and '_'", remedy=remedy
        )
    for override in overrides:
        if "=" not in override:
            raise ArgumentError(f"{where}: '{override}' is not KEY=VALUE", remedy=remedy)
    return Ablation(name, meaning or " ".join(overrides), tuple(overrides))
