"""Parsers of option values that Typer's own types let through: blank paths and non-finite numbers.

An empty path is an unset variable of a shell, which would mean the working directory; NaN compares
as neither below nor above the ends of a range.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, TypeAdapter, ValidationError

from mmbert.recipe.quantities import LARGEST_QUANTITY, parse_quantity

MOST_GPUS = 1_000_000
MOST_DOCUMENTS = 1_000_000
"""Documents of a language in a measurement."""
MOST_INDEXED = 10**12
"""Largest index of a document or a step."""
LONGEST_CONTEXT = 1 << 20
"""Tokens of a document; far above any model."""


def parse_path(value: str | Path) -> Path:
    """Return a path that is not blank."""
    if not str(value).strip():
        raise typer.BadParameter("the path is empty; is a variable of the shell unset?")
    return Path(value)


def parse_text(value: str) -> str:
    """Return text that is neither blank nor, as a path may be, undecodable."""
    if not value.strip():
        raise typer.BadParameter("it is empty; is a variable of the shell unset?")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(
            f"{value!r} is not UTF-8; rename the file or folder, or set PYTHONUTF8=1 if the locale"
            " is of another encoding"
        ) from error
    return value


def parse_output_folder(value: str | Path) -> Path:
    """Return the path of a folder that exists or can be made: nothing on the way is a file."""
    path = parse_path(value)
    nearest = next(
        one for one in (path.absolute(), *path.absolute().parents) if os.path.lexists(one)
    )
    if not nearest.is_dir():
        raise typer.BadParameter(f"{nearest} is not a folder")
    if (path / "config.json").is_file():
        raise typer.BadParameter(f"{path} holds a model; name another folder")
    return path


def parse_shards_output(value: str | Path) -> Path:
    """Return the path of a folder for shards, in which no run has written."""
    path = parse_output_folder(value)
    if (path / "checkpoints").is_dir():
        raise typer.BadParameter(f"{path} holds a training run; name another folder")
    return path


def tokens_from(minimum: int) -> Callable[[str | int], int]:
    """Return a parser of numbers of tokens such as 600B."""

    def parse(value: str | int) -> int:
        try:
            found = parse_quantity(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        if not minimum <= found <= LARGEST_QUANTITY:
            raise typer.BadParameter(f"{value} is not a number of tokens from {minimum}")
        return found

    return parse


def number(
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Callable[[str | float], float]:
    """Return a parser of finite numbers above `gt`, at least `ge`, below `lt` and at most `le`."""
    limits = Field(allow_inf_nan=False, gt=gt, ge=ge, lt=lt, le=le)
    adapter: TypeAdapter[float] = TypeAdapter(Annotated[float, limits])
    given = {"above": gt, "at least": ge, "below": lt, "at most": le}
    wanted = ", ".join(f"{word} {end:g}" for word, end in given.items() if end is not None)

    def parse(value: str | float) -> float:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise typer.BadParameter(f"{value!r} is not a number {wanted}".rstrip()) from error

    return parse
