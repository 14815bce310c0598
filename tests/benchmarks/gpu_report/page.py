"""The report as a Markdown page, from the files of its parts."""

import io
from collections.abc import Sequence
from pathlib import Path

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from tests.benchmarks.gpu_report.records import Figure, figures, format_value
from tests.benchmarks.gpu_report.supervisor import Ending, Outcome
from tests.benchmarks.gpu_report.verification import operation_results, unverified_reason

WIDTH = 400


def page(folder: Path, heading: str, outcomes: Sequence[Outcome]) -> str:
    """Render the outcomes of parts and tests, and the figures of each part."""
    sections = [f"# GPU report\n\n{heading}\n", _outcomes(outcomes), _tests(folder)]
    for outcome in outcomes:
        found = figures(folder, outcome.name)
        if found or outcome.last_lines:
            sections.append(f"## {outcome.title}\n")
        if found:
            sections.append(_figures(folder, found))
        if outcome.last_lines:
            last = "\n".join(outcome.last_lines)
            sections.append(f"Ended {outcome.ending}; its last lines:\n\n```\n{last}\n```\n")
    return "\n".join(section for section in sections if section)


def _outcomes(outcomes: Sequence[Outcome]) -> str:
    table = Table("part", "outcome", "seconds", "why", box=MARKDOWN)
    for outcome in outcomes:
        taken = "" if outcome.ending is Ending.NOT_BEGUN else f"{outcome.seconds:.0f}"
        table.add_row(outcome.title, outcome.ending, taken, outcome.reason)
    return _markdown(table)


def _tests(folder: Path) -> str:
    found = operation_results(folder)
    if not found:
        return "No tests have run: every figure below is unverified.\n"
    table = Table("operation", "its tests", box=MARKDOWN)
    for operation, doubtful in found.items():
        table.add_row(operation, doubtful or "passed")
    return _markdown(table)


def _figures(folder: Path, found: Sequence[Figure]) -> str:
    """Render a table for subjects with common quantities, with remarks below."""
    groups: list[list[Figure]] = []
    measured = [figure for figure in found if figure.quantity]
    for subject in dict.fromkeys(figure.subject for figure in measured):
        own = [figure for figure in measured if figure.subject == subject]
        quantities = {figure.quantity for figure in own}
        alike = (g for g in groups if quantities & {figure.quantity for figure in g})
        group = next(alike, None)
        if group is None:
            groups.append(own)
        else:
            group += own
    remarks = [f"- {each.subject}: {each.text()}" for each in found if not each.quantity]
    return "\n".join([*(_table(folder, group) for group in groups), *remarks]) + "\n"


def _table(folder: Path, measured: Sequence[Figure]) -> str:
    """Render a row for each subject and a column for each quantity."""
    columns = list(dict.fromkeys((figure.quantity, figure.unit) for figure in measured))
    headings = [f"{quantity} ({unit})" if unit else quantity for quantity, unit in columns]
    needs_tests = any(figure.operations for figure in measured)
    table = Table("", *headings, *(["verified"] if needs_tests else []), box=MARKDOWN)
    for subject in dict.fromkeys(figure.subject for figure in measured):
        own = [figure for figure in measured if figure.subject == subject]
        values = {(figure.quantity, figure.unit): format_value(figure.value) for figure in own}
        needed = tuple(dict.fromkeys(name for figure in own for name in figure.operations))
        unverified = unverified_reason(folder, needed)
        mark = f"unverified ({unverified})" if unverified else ("yes" if needed else "")
        row = [values.get(column, "") for column in columns]
        table.add_row(subject, *row, *([mark] if needs_tests else []))
    return _markdown(table)


def _markdown(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None).print(table, markup=False, highlight=False)
    return "\n".join(line.strip() for line in out.getvalue().strip().splitlines()) + "\n"
