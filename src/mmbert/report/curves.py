"""Points that the charts draw, as rows for Vega-Lite, and how many there were to draw."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmbert.report.run import Run
from mmbert.report.thinning import thin

MAX_BINS = 300
MIN_BINS = 30
# Significant digits of a value; enough for a chart, and half of what the log has.
_DIGITS = 7

Row = dict[str, Any]
Columns = Callable[[Run], Mapping[str, npt.NDArray[np.float64]]]


@dataclass(frozen=True)
class Points:
    """Rows of one chart."""

    rows: list[Row]
    total: int
    """Number of points that the log has for the chart."""
    not_finite: int = 0
    """Number of values that are infinite or no number, and cannot be drawn."""

    note: str = ""

    @property
    def caption(self) -> str:
        """How many points are drawn."""
        text = f"{len(self.rows):,} of {self.total:,} points drawn{self.note}"
        if self.not_finite:
            text += f"; {self.not_finite:,} values are not finite"
        return text


def bins_for(runs: int) -> int:
    """Return the bins of a curve, fewer the more runs there are, so that the page stays small."""
    return max(MIN_BINS, MAX_BINS // runs)


def series_names(runs: Sequence[Run], columns: Columns) -> list[str]:
    """Return the series of all runs, those of phases in the order of the phases."""
    phases = [phase.name for run in runs for phase in run.phases]
    found = [name for run in runs for name in columns(run)]
    return list(dict.fromkeys([*(name for name in phases if name in found), *found]))


def curve_points(runs: Sequence[Run], columns: Columns, names: Iterable[str]) -> Points:
    """Return the points of the series `names` over the tokens, thinned for each run and series."""
    rows: list[Row] = []
    total = not_finite = 0
    bins = bins_for(len(runs))
    for run in runs:
        tokens, steps = run.log.column("tokens"), run.log.column("step")
        found = columns(run)
        for name in names:
            if name not in found:
                continue
            values = found[name]
            total += int(np.isfinite(values).sum())
            not_finite += int(np.isinf(values).sum())
            rows += [
                {
                    "run": run.label,
                    "series": name,
                    "step": int(steps[at]),
                    "tokens": int(tokens[at]),
                    "value": rounded(values[at]),
                }
                for at in thin(tokens, values, bins)
            ]
    return Points(rows, total, not_finite)


def held_out_points(runs: Sequence[Run]) -> Points:
    """Return the held-out losses over all and by tier, which are few and all drawn."""
    rows = [
        {
            "run": run.label,
            "series": name,
            "step": measured.step,
            "tokens": round(tokens),
            "phase": measured.phase,
            "value": rounded(loss),
        }
        for run in runs
        for measured, tokens in zip(
            run.held_out, run.tokens_at([found.step for found in run.held_out]), strict=True
        )
        for name, loss in {"all": measured.overall, **measured.tiers}.items()
        if loss is not None
    ]
    return Points(rows, len(rows))


def unigram_rows(runs: Sequence[Run]) -> list[Row]:
    """Return the unigram model's held-out loss over all and by tier, of each run."""
    return [
        {"run": run.label, "series": name, "value": rounded(loss)}
        for run in runs
        if run.results is not None and run.results.unigram is not None
        for name, loss in {
            "all": run.results.unigram.overall, **run.results.unigram.tiers,
        }.items()
        if loss is not None
    ]  # fmt: skip


def language_points(runs: Sequence[Run]) -> list[Row]:
    """Return every language of every run with what is known of it; keys are missing otherwise."""
    rows = []
    for run in runs:
        sizes, by_key = run.train_tokens, run.by_language
        start, end = run.held_out_by_language
        shares = by_key.get("share_by_language", {})
        planned = by_key.get("wanted_share_by_language", {})
        epochs = by_key.get("epochs_by_language", {})
        columns: dict[str, Mapping[str, float]] = {
            "size": sizes, "start": start, "end": end,
            "share": shares, "planned": planned, "epochs": epochs,
        }  # fmt: skip
        for language in sorted({name for column in columns.values() for name in column}):
            row: Row = {"run": run.label, "language": language}
            for key, column in columns.items():
                if language in column:
                    row[key] = rounded(column[language])
            if language in start and language in end:
                row["gain"] = rounded(start[language] - end[language])
            rows.append(row)
    return rows


def drawable(rows: Sequence[Row], x: str, y: str, *, log: Sequence[str] = ()) -> Points:
    """Return the rows that have `x` and `y`, above 0 for axes in `log`, with these keys first."""
    having = [row for row in rows if x in row and y in row]
    drawn = [row for row in having if all(row[key] > 0 for key in log)]
    zero = len(having) - len(drawn)
    note = f"; {zero:,} with a value of 0 have no place on a logarithmic axis" if zero else ""
    return Points(drawn, len(having), note=note)


def event_points(runs: Sequence[Run], kinds: Callable[[str], bool]) -> Points:
    """Return the events of the kinds to draw, thinned for each run and kind."""
    rows: list[Row] = []
    total = 0
    for run in runs:
        by_kind: dict[str, list[int]] = {}
        for number, event in enumerate(run.log.events):
            if kinds(event.kind):
                by_kind.setdefault(event.kind, []).append(number)
        for kind, numbers in by_kind.items():
            events = [run.log.events[number] for number in numbers]
            events.sort(key=lambda event: event.step)
            tokens = run.tokens_at([event.step for event in events])
            total += len(events)
            rows += [
                {
                    "run": run.label,
                    "kind": kind,
                    "step": events[at].step,
                    "tokens": round(tokens[at]),
                    "text": events[at].text,
                }
                for at in thin(tokens, np.zeros(len(tokens)), bins_for(len(runs)) * 2)
            ]
    return Points(rows, total)


def rounded(value: float) -> float | int:
    """Return a value with the digits that a chart needs."""
    if isinstance(value, int):
        return value
    return float(f"{value:.{_DIGITS}g}")
