"""Faults stored as patches: description, cost to a training run, and the test that detects each.

A file NUMBER-NAME.patch consists of a header, an empty line and a unified diff.

    What: rotary bases of global and local layers are swapped
    Cost: a run of forty days trains another architecture
    Test: tests/recipe/test_published.py::test_rotary_bases
    Environment: TRITON_INTERPRET=1        (only if the test needs it)
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import UserError

FOLDER = Path(__file__).parent
REQUIRED = ("What", "Cost", "Test")
ALLOWED = (*REQUIRED, "Environment")


@dataclass(frozen=True)
class Fault:
    """Patch of a fault and its parsed header."""

    path: Path
    what: str
    cost: str
    tests: tuple[str, ...]
    """Arguments for pytest: test ids, optionally -k."""
    environment: tuple[tuple[str, str], ...] = ()
    """Environment variables of the test process, as (name, value)."""

    @property
    def name(self) -> str:
        return self.path.stem


def read_fault(path: Path) -> Fault:
    """Read the fault of a patch file.

    Raises:
        UserError: the header is malformed; names the file and the line.
    """
    found: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            break
        key, colon, value = line.partition(":")
        if not colon or key not in ALLOWED or not value.strip() or key in found:
            raise UserError(
                f"{path}, line {number}: {line!r} is not a header line",
                remedy=f"write one line each of {', '.join(ALLOWED)}, an empty line and the diff",
            )
        found[key] = value.strip()
    missing = [key for key in REQUIRED if key not in found]
    if missing:
        raise UserError(
            f"{path}, line {len(found) + 1}: the header ends without {' and '.join(missing)}",
            remedy="describe the fault, its cost and the test that detects it",
        )
    settings = [setting.partition("=") for setting in shlex.split(found.get("Environment", ""))]
    return Fault(
        path,
        found["What"],
        found["Cost"],
        tuple(shlex.split(found["Test"])),
        tuple((name, value) for name, _, value in settings),
    )


def read_faults(beginnings: tuple[str, ...] = (), folder: Path = FOLDER) -> list[Fault]:
    """Read the faults whose names start with one of `beginnings`, by default all.

    Raises:
        UserError: a header is malformed, or no fault starts with one of the prefixes.
    """
    paths = sorted(folder.glob("*.patch"))
    for beginning in beginnings:
        if not any(path.stem.startswith(beginning) for path in paths):
            raise UserError(
                f"no fault in {folder} begins with {beginning!r}",
                remedy="list them with `python -m tests.mutations --list`",
            )
    return [read_fault(path) for path in paths if path.stem.startswith(beginnings or "")]
