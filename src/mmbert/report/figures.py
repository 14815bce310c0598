"""Charts with their texts, made alike for one run and for several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbert.report.axes import Colors, Quantity, TokenAxis
from mmbert.report.charts import event_chart, scatter_chart, token_chart
from mmbert.report.curves import (
    Columns,
    Points,
    Row,
    curve_points,
    drawable,
    event_points,
    held_out_points,
    language_points,
    series_names,
    unigram_rows,
)
from mmbert.report.run import Run
from mmbert.report.run_log import RESTARTS

LOSS = Quantity("Loss (nats per masked token)", ".4f", "loss")
ORDINARY_EVENTS = ("held-out", "phase", "checkpoint", "links", "shards copied")
"""Kinds of events that are neither restarts nor faults."""
KIND_ORDER = (
    *("start", "stopped", "rollback", "no rollback", "spike", "not finite", "passed over"),
    *("repetition", "wrong result", "warning"),
)

# Opacities of the bands of phases, through which the grid is seen.
_SHADES = (0.05, 0.015)
# Heights above the chart at which the names of phases stand.
_NAME_ROWS = (-4, -17)
# Width of a chart in a narrow window, and of a letter of a phase's name.
_NARROW_PIXELS = 560
_LETTER_PIXELS = 6.5


@dataclass(frozen=True)
class Figure:
    """A chart with its title, its explanation, and how much of the data it shows."""

    id: str
    title: str
    text: str
    caption: str
    spec: Mapping[str, Any]


@dataclass
class Section:
    """Part of the page."""

    id: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """What is not shown, and why."""


class Figures:
    """Adds the charts of the runs to sections, with one token axis and one color for each name."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.several = len(runs) > 1
        self._axis = _token_axis(runs)
        tiers = series_names(runs, lambda run: run.log.series("loss_by_tier"))
        tiers += [name for run in runs for found in run.held_out for name in found.tiers]
        self.tiers = tuple(dict.fromkeys(["all", *tiers]))
        self.languages = language_points(runs)
        self.phases_differ = bool(self._axis.boundaries)
        self.any_causal = any(run.has_causal_phases for run in runs)

    def _colors(self, series: Sequence[str]) -> Colors:
        if self.several:
            return Colors("run", tuple(run.label for run in self.runs))
        return Colors("series", tuple(series))

    def add_curves(
        self,
        section: Section,
        ident: str,
        title: str,
        quantity: Quantity,
        columns: Columns,
        text: str,
        *,
        names: Sequence[str] = (),
        marks: Sequence[Row] = (),
    ) -> None:
        """Add one chart with all series of a run, or one chart with all runs for each series."""
        found = series_names(self.runs, columns)
        colors = self._colors(names or found)
        groups = [[name] for name in found] if self.several else [found]
        added = False
        for number, group in enumerate(groups):
            points = curve_points(self.runs, columns, group)
            if not points.rows:
                continue
            added = True
            positive = all(row["value"] > 0 for row in points.rows)
            shown = quantity if positive or not quantity.log else Quantity(
                quantity.title, quantity.format, quantity.short, quantity.axis_format
            )  # fmt: skip
            alone = len(groups) == 1
            self._add(
                section, ident if alone else f"{ident}-{number}",
                title if alone else f"{title}: {group[0]}", text if number == 0 else "", points,
                token_chart(points.rows, shown, self._axis, colors, marks=marks),
            )  # fmt: skip
        if not added:
            section.absent.append(f"{title}: not logged.")

    def add_held_out(self, section: Section) -> None:
        """Add the held-out losses over all and by tier: one chart, or one for each tier."""
        everything = held_out_points(self.runs)
        found = [name for name in self.tiers if any(r["series"] == name for r in everything.rows)]
        groups = [[name] for name in found] if self.several else [found]
        colors = self._colors(self.tiers)
        text = (
            "On the same documents and masks at every measurement. Dashed: a unigram model of the "
            "training tokens."
        )
        for number, group in enumerate(groups if found else []):
            rows = [row for row in everything.rows if row["series"] in group]
            rules = [row for row in unigram_rows(self.runs) if row["series"] in group]
            self._add(
                section, f"held-out-{number}" if self.several else "held-out",
                f"Held-out loss: {group[0]}" if self.several else "Held-out loss by tier",
                text if number == 0 else "", Points(rows, len(rows)),
                token_chart(rows, LOSS, self._axis, colors, points=True, rules=rules),
            )  # fmt: skip
        if not found:
            section.absent.append("Held-out loss: not logged.")

    def add_events(self, section: Section, ident: str, title: str, text: str) -> None:
        """Add the chart of restarts and faults."""
        points = event_points(self.runs, lambda kind: kind not in ORDINARY_EVENTS)
        if not points.rows:
            section.absent.append("No restart or fault has been logged.")
            return
        found = {row["kind"] for row in points.rows}
        kinds = [kind for kind in KIND_ORDER if kind in found]
        kinds += sorted(found.difference(kinds))
        spec = event_chart(points.rows, kinds, self._axis, self._colors(()))
        self._add(section, ident, title, text, points, spec)

    def restarts(self) -> list[Row]:
        """Return the starts after the first and the rollbacks, as marks on the token axis."""
        points = event_points(self.runs, lambda kind: kind in RESTARTS)
        return [row for row in points.rows if row["step"] > 0]

    def add_scatter(
        self,
        section: Section,
        ident: str,
        title: str,
        x: tuple[str, Quantity],
        y: tuple[str, Quantity],
        text: str,
        tooltips: Mapping[str, str],
        *,
        diagonal: bool = False,
    ) -> None:
        """Add a chart with a mark for each language.

        Args:
            x, y: key of `language_points` and what it means.
            tooltips: formats by key, of what tooltips show.
            diagonal: whether to draw the line where `x` and `y` are equal.
        """
        logarithmic = [key for key, quantity in (x, y) if quantity.log]
        points = drawable(self.languages, x[0], y[0], log=logarithmic)
        if not points.rows:
            missing = [
                quantity.short or quantity.title.lower()
                for key, quantity in (x, y)
                if not any(key in row for row in self.languages)
            ]
            section.absent.append(
                f"{title}: the log has no {' and no '.join(missing)} of languages."
            )
            return
        keys = ("run", "language", *tooltips)
        chosen = [{key: row[key] for key in keys if key in row} for row in points.rows]
        line = None
        if diagonal:
            ends = [pick(row[k] for row in chosen for k in (x[0], y[0])) for pick in (min, max)]
            line = [{x[0]: end, y[0]: end} for end in ends]
        spec = scatter_chart(chosen, x, y, self._colors(()), tooltips=tooltips, line=line)
        self._add(section, ident, title, text, points, spec)

    def _add(
        self,
        section: Section,
        ident: str,
        title: str,
        text: str,
        points: Points,
        spec: Mapping[str, Any],
    ) -> None:
        section.figures.append(Figure(ident, title, text, points.caption, spec))


def _token_axis(runs: Sequence[Run]) -> TokenAxis:
    """Return an axis over the tokens of all runs, with their phases as far as they have come."""
    begun = [run.log.column("tokens")[0] for run in runs if len(run.log)]
    last = max([float(run.tokens) for run in runs] + [1.0])
    # A variant begins where it branches; the first line of another run is near its beginning.
    first = float(min(begun, default=0.0))
    first = 0.0 if first < last / 5 or first == last else first
    phases = [
        [
            {
                "phase": span.name,
                "begin": max(first, span.first_token),
                "end": min(last, span.end_token),
            }
            for span in run.phases
            if span.first_token < last and span.end_token > first
        ]
        for run in runs
    ]  # fmt: skip
    known = [found for found in phases if found]
    if not known:
        return TokenAxis(first, last)
    if all(found == known[0] for found in known):
        return TokenAxis(first, last, bands=tuple(_shaded(known[0], last - first)))
    boundaries = tuple(
        {"run": run.label, "phase": phase["phase"], "tokens": phase["begin"]}
        for run, found in zip(runs, phases, strict=True)
        for phase in found[1:]
    )
    return TokenAxis(first, last, boundaries=boundaries)


def _shaded(phases: Sequence[Mapping[str, Any]], width: float) -> list[Row]:
    """Return the rows of phase bands, with alternating shades and the heights of their names.

    Args:
        width: tokens that the axis shows. A name that its neighbor would cover is put higher.
    """
    rows: list[Row] = []
    for number, phase in enumerate(phases):
        free = (phase["end"] - phase["begin"]) / width * _NARROW_PIXELS
        crowded = bool(rows) and rows[-1]["crowds"] and rows[-1]["row"] == _NAME_ROWS[0]
        rows.append(
            {
                **phase,
                "shade": _SHADES[number % 2],
                "row": _NAME_ROWS[crowded],
                "crowds": len(phase["phase"]) * _LETTER_PIXELS > free,
            }
        )
    return [{key: row[key] for key in row if key != "crowds"} for row in rows]
