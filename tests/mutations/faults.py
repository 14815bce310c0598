"""A fault kept as a patch: what it is, what it would cost a training, and the test that sees it.

A file NUMBER-NAME.patch begins with its header, up to an empty line; a unified diff follows.

    What: rotary bases of global and local layers are swapped
    Cost: a run of forty days trains another architecture
    Test: tests/recipe/test_published.py::test_rotary_bases
    Environment: TRITON_INTERPRET=1        (only where the test needs it)
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
    """A patch and its header."""

    path: Path
    what: str
    cost: str
    tests: tuple[str, ...]
    """pytest's arguments: ids of tests, maybe -k."""
    environment: tuple[tuple[str, str], ...] = ()
    """Names and values for the tests' process."""

    @property
    def name(self) -> str:
        return self.path.stem


def read_fault(path: Path) -> Fault:
    """The fault of a patch file.

    Raises:
        UserError: its header is not as above; names the file and the line.
    """
    found: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            break
        key, colon, value = line.partition(":")
        if not colon or key not in ALLOWED or not value.strip() or key in found:
            raise UserError(
                f"{path}, line {number}: {line!r} is no line of a fault's header",
                remedy=f"one line each: {', '.join(ALLOWED)}; an empty line; the diff",
            )
        found[key] = value.strip()
    missing = [key for key in REQUIRED if key not in found]
    if missing:
        raise UserError(
            f"{path}, line {len(found) + 1}: the header ends without {' and '.join(missing)}",
            remedy="say what the fault is, what it would cost, and which test sees it",
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
    """The faults whose names begin with one of `beginnings`; all if none is given.

    Raises:
        UserError: a header is malformed, or a beginning fits no fault.
    """
    paths = sorted(folder.glob("*.patch"))
    for beginning in beginnings:
        if not any(path.stem.startswith(beginning) for path in paths):
            raise UserError(
                f"no fault in {folder} begins with {beginning!r}",
                remedy="`python -m tests.mutations --list` shows them",
            )
    return [read_fault(path) for path in paths if path.stem.startswith(beginnings or "")]
