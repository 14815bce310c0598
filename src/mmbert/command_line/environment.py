"""Whole numbers in the variables of launchers; an empty variable counts as unset."""

from collections.abc import Mapping

from mmbert.errors import LauncherError

_LARGEST = 2**31 - 1


def given_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are not blank."""
    return {name: value for name, value in environment.items() if value.strip()}


def integer(
    environment: Mapping[str, str],
    name: str,
    default: int | None = None,
    *,
    minimum: int = 0,
    maximum: int = _LARGEST,
) -> int:
    """Return the whole number in variable `name`, or `default` if it is unset or blank.

    Raises:
        LauncherError: the variable is not a whole number in the range, or unset without a default.
    """
    text = environment.get(name, "").strip()
    if not text and default is not None:
        return default
    if not text:
        raise LauncherError(
            f"{name} is not set in the environment",
            remedy="start the program with a single launcher, in a clean environment",
        )
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not minimum <= number <= maximum:
        raise LauncherError(
            f"{name} in the environment is {text!r}, not a whole number from {minimum} to"
            f" {maximum}",
            remedy=f"`unset {name}`, and let the launcher set it",
        )
    return number
