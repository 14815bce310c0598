"""The outcome of a drill: a table, and `fault-drill.json`."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mmbert import __version__
from mmbert.command_line.tables import WholeTable
from mmbert.files import write_json

RESULT_NAME = "fault-drill.json"


class FaultOutcome(BaseModel):
    """What happened after one fault."""

    model_config = ConfigDict(frozen=True)

    fault: str
    does: str
    happened: str
    """One sentence."""
    seconds: float
    survived: bool | None
    """Whether it went as expected, to the same losses and weights; None: left out."""
    statuses: tuple[int | None, ...] = ()
    """Exit statuses of the ranks: negative for a signal, None for one that the drill ended."""


class DrillOutcome(BaseModel):
    """All faults of a drill."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    version: str = __version__
    device: str
    ranks: int
    tolerance: float
    """Largest accepted difference of losses and weights; 0: the same to the bit."""
    seconds: float
    survived: bool
    faults: tuple[FaultOutcome, ...]


def write_outcome(outcome: DrillOutcome, folder: Path) -> Path:
    """Write the outcome below `folder` and return the path."""
    path = folder / RESULT_NAME
    write_json(path, outcome.model_dump(mode="json"))
    return path


def render(outcomes: Sequence[FaultOutcome]) -> WholeTable:
    """Return the table, with a row for each fault."""
    table = WholeTable("fault", "what happened", "survived")
    table.add_column("seconds", justify="right")
    words = {True: "yes", False: "NO", None: "left out"}
    for one in outcomes:
        table.add_row(one.fault, one.happened, words[one.survived], f"{one.seconds:.0f}")
    return table
