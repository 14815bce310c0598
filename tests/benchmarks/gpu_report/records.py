"""Figures of a GPU report: printed and on disk the moment they are known.

A figure is verified if the tests of the operations that it depends on have passed in the same
report (verification.py); a figure that is not says why.
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
    """A measured value, or with `quantity` "" a remark."""

    part: str
    subject: str
    """What was measured: the row of its table."""
    quantity: str
    """Which of its values: the column."""
    value: float | str
    unit: str = ""
    operations: tuple[str, ...] = ()
    """Operations whose tests say whether what was measured computes the right thing."""

    def text(self) -> str:
        """Quantity, value and unit, or the remark."""
        if not self.quantity:
            return str(self.value)
        return f"{self.quantity} {format_value(self.value)} {self.unit}".rstrip()


def format_value(value: float | str) -> str:
    """A number with four digits that count, thousands set apart."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


@dataclass(frozen=True)
class Recorder:
    """Writes the figures of one part. Without a folder they are printed alone, unverified."""

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
        """Print what a reader must know beside the figures, and append it to the report."""
        self._write(Figure(self.part, subject, "", text))

    def _write(self, figure: Figure) -> None:
        unverified = unverified_reason(self.folder, figure.operations)
        mark = f"  [unverified: {unverified}]" if unverified else ""
        print(f"{figure.subject}: {figure.text()}{mark}", flush=True)
        if self.folder is not None:
            json_lines.append(self.folder / FIGURES, asdict(figure))


def figures(folder: Path, part: str | None = None) -> list[Figure]:
    """A report's figures in the order of their measurement, of one part or of all."""
    found = [
        Figure(**(record | {"operations": tuple(record["operations"])}))
        for record in json_lines.records(folder / FIGURES)
    ]
    return [figure for figure in found if part in (None, figure.part)]
