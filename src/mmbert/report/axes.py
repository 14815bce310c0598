"""Axes, colors and phase bands of the charts, as Altair encodings and layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt

from mmbert.report.curves import Row

PALETTE = (
    *("#4269d0", "#e8703f", "#3ca951", "#c99a06", "#a463f2"),
    *("#3aa7b8", "#9c6b4e", "#d6457f", "#76b41f", "#6b7280"),
)
# 'G' of the SI prefixes is written as 'B', as everywhere else in the project.
COUNT_LABELS = "replace(format(datum.value, '~s'), 'G', 'B')"
# Whether a label of a logarithmic axis begins with 1, 2 or 5.
_ROUND_NUMBER = (
    "indexof([1, 2, 5], round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-6)))) >= 0"
)
Y_EXTENT = 52
"""Width that the labels of the y axis take, so that the token axes of all charts are aligned."""


@dataclass(frozen=True)
class Quantity:
    """What an axis shows."""

    title: str
    """With the unit."""
    format: str
    """d3 format of tooltips."""
    short: str = ""
    """Title in tooltips, if it is another."""
    axis_format: str | None = None
    log: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Colors:
    """The colors of series or runs, the same in all charts."""

    field: str
    """`series` or `run`."""
    names: tuple[str, ...]

    def encoding(self, shown: Sequence[str], symbol: str = "stroke") -> alt.Color:
        """Return the color encoding, with a legend if there are several names.

        Args:
            shown: the series that the chart has; runs are all in every legend.
            symbol: of the legend.
        """
        wanted = set(self.names if self.field == "run" else shown)
        domain = [name for name in self.names if name in wanted]
        colors = [PALETTE[self.names.index(name) % len(PALETTE)] for name in domain]
        legend = alt.Legend(
            title=None, orient="top", direction="horizontal", columns=4, labelLimit=240,
            symbolType=symbol, symbolStrokeWidth=3, offset=22,
        )  # fmt: skip
        return alt.Color(
            f"{self.field}:N",
            scale=alt.Scale(domain=domain, range=colors),
            legend=legend if len(domain) > 1 else None,
        )


@dataclass(frozen=True)
class TokenAxis:
    """The token axis that all charts over tokens share."""

    first: float
    last: float
    bands: tuple[Row, ...] = ()
    """Phases: `phase`, `begin`, `end`; of all runs, or empty if their phases differ."""
    boundaries: tuple[Row, ...] = ()
    """Beginnings of the phases of runs whose phases differ: `run`, `phase`, `tokens`."""

    def encoding(self) -> alt.X:
        """Return the encoding of the field `tokens`."""
        return alt.X("tokens:Q", scale=self._scale(), axis=self._axis())

    def layers(self, colors: Colors) -> tuple[list[alt.Chart], dict[str, list[Row]]]:
        """Return the layers that mark the phases, and their rows by the name of the data."""
        if self.bands:
            return list(self._bands), {"phases": list(self.bands)}
        if not self.boundaries:
            return [], {}
        rules = (
            alt.Chart(alt.NamedData(name="phases"), name="boundary")
            .mark_rule(strokeDash=[3, 3], opacity=0.7)
            .encode(
                x=self.encoding(),
                color=colors.encoding(()),
                tooltip=[alt.Tooltip("run:N"), alt.Tooltip("phase:N", title="phase begins")],
            )
        )
        return [rules], {"phases": list(self.boundaries)}

    @cached_property
    def _bands(self) -> list[alt.Chart]:
        base = alt.Chart(alt.NamedData(name="phases"))
        begin = alt.X("begin:Q", scale=self._scale(), axis=self._axis())
        bands = base.mark_rect(fill="#111827").encode(
            x=begin,
            x2=alt.X2("end"),
            fillOpacity=alt.FillOpacity("shade:Q", scale=None, legend=None),
        )
        names = base.mark_text(align="left", baseline="bottom", dx=2, color="#6b7280").encode(
            x=begin, y=alt.Y("row:Q", scale=None, axis=None), text=alt.Text("phase:N")
        )
        return [bands.properties(name="band"), names.properties(name="phase")]

    def _scale(self) -> alt.Scale:
        return alt.Scale(domain=[self.first, self.last], nice=False, zero=False)

    def _axis(self) -> alt.Axis:
        return alt.Axis(title="Tokens", labelExpr=COUNT_LABELS, grid=False, tickCount=8)


def value_y(quantity: Quantity, key: str = "value") -> alt.Y:
    axis = value_axis(quantity, ticks=5, minExtent=Y_EXTENT)
    return alt.Y(f"{key}:Q", scale=value_scale(quantity), axis=axis)


def value_axis(quantity: Quantity, ticks: int, **options: Any) -> alt.Axis:
    """Return an axis of values; a logarithmic one has labels and lines at 1, 2 and 5 only."""
    label = COUNT_LABELS
    if quantity.axis_format is not None:
        label = f"format(datum.value, '{quantity.axis_format}')"
    if quantity.log:
        shown = {"condition": {"test": _ROUND_NUMBER, "value": 1}, "value": 0}
        label = f"{_ROUND_NUMBER} ? {label} : ''"
        options |= {"gridOpacity": shown, "tickOpacity": shown}
    return alt.Axis(title=quantity.title, tickCount=ticks, labelExpr=label, **options)


def value_scale(quantity: Quantity) -> alt.Scale:
    if quantity.log:
        return alt.Scale(type="log", nice=False, padding=8)
    return alt.Scale(zero=quantity.zero, nice=True)
