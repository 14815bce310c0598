"""Figures of a GPU report, printed and written as soon as they are known.

A figure is verified if the tests of the operations that it depends on have passed in the same
report (verification.py); an unverified figure is marked with the reason.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.gpu_report.verification import unverified_reason
from tests.support import json_lines

FIGURES = "figures.jsonl"
# Subject of the remark that says why no part can use a GPU.
NO_GPU = "no GPU"


@dataclass(frozen=True)
class Figure:
    """A measured value, or a remark if `quantity` is empty."""

    part: str
    subject: str
    """What was measured: the row in its table."""
    quantity: str
    """Which value: the column."""
    value: float | str
    unit: str = ""
    operations: tuple[str, ...] = ()
    """Operations whose tests verify the measured code."""

    def text(self) -> str:
        """Return quantity, value and unit, or the remark."""
        if not self.quantity:
            return str(self.value)
        return f"{self.quantity} {format_value(self.value)} {self.unit}".rstrip()


def format_value(value: float | str) -> str:
    """Format a number with four significant digits and thousands separators."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


@dataclass(frozen=True)
class Recorder:
    """Writes the figures of a part; without a folder they are only printed, unverified."""

    part: str
    folder: Path | None = None

    def figure(
        self,
        subject: str,
        quantity: str,
        value: float | str,
        unit: str = "",
        operations: tuple[str, ...] = (),
    ) -> None:
        """Print a figure and append it to the report."""
        self._write(Figure(self.part, subject, quantity, value, unit, operations))

    def remark(self, subject: str, text: str) -> None:
        """Print a remark and append it to the report."""
        self._write(Figure(self.part, subject, "", text))

    def _write(self, figure: Figure) -> None:
        unverified = unverified_reason(self.folder, figure.operations)
        mark = f"  [unverified: {unverified}]" if unverified else ""
        print(f"{figure.subject}: {figure.text()}{mark}", flush=True)
        if self.folder is not None:
            json_lines.append(self.folder / FIGURES, asdict(figure))


def figures(folder: Path, part: str | None = None) -> list[Figure]:
    """Return a report's figures in order of measurement, of one part or of all."""
    found = [
        Figure(**(record | {"operations": tuple(record["operations"])}))
        for record in json_lines.records(folder / FIGURES)
    ]
    return [figure for figure in found if part in (None, figure.part)]
