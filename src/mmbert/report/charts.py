"""Vega-Lite charts, built with Altair from rows of points."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from mmbert.report.axes import (
    PALETTE,
    Y_EXTENT,
    Colors,
    Quantity,
    TokenAxis,
    value_axis,
    value_scale,
    value_y,
)
from mmbert.report.curves import Row

HEIGHT = 260
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_CONFIG = {
    "font": FONT,
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "#4b5563", "titleColor": "#374151", "titleFontWeight": "normal",
        "labelFontSize": 11, "titleFontSize": 12, "gridColor": "#e5e7eb", "domainColor": "#9ca3af",
        "tickColor": "#9ca3af", "labelOverlap": True, "titlePadding": 8,
    },
    "legend": {"labelColor": "#374151", "labelFontSize": 12},
}  # fmt: skip


def token_chart(
    rows: list[Row],
    quantity: Quantity,
    axis: TokenAxis,
    colors: Colors,
    *,
    points: bool = False,
    rules: Sequence[Row] = (),
    marks: Sequence[Row] = (),
) -> dict[str, Any]:
    """Return the specification of curves over tokens.

    Args:
        rows: `run`, `series`, `step`, `tokens`, `value`; `phase` if `points`.
        points: whether to show every point, for curves of few points.
        rules: horizontal lines, `run`, `series`, `value`.
        marks: vertical lines for restarts, `run`, `tokens`, `text`.
    """
    layers, data = axis.layers(colors)
    color = colors.encoding([row["series"] for row in rows])
    y = value_y(quantity)
    if marks:
        data["restarts"] = list(marks)
        layers.append(
            alt.Chart(alt.NamedData(name="restarts"), name="restart")
            .mark_rule(color="#9ca3af", strokeDash=[2, 2])
            .encode(x=axis.encoding(), tooltip=_tooltips(("run", "step", "text"), {}))
        )
    if rules:
        data["rules"] = list(rules)
        layers.append(
            alt.Chart(alt.NamedData(name="rules"), name="rule")
            .mark_rule(strokeDash=[5, 4], strokeWidth=1.2)
            .encode(
                y=y,
                color=color,
                tooltip=[*_tooltips(("run", "series"), {}), _value_tooltip("unigram", quantity)],
            )
        )
    data["points"] = rows
    base = alt.Chart(alt.NamedData(name="points")).encode(x=axis.encoding(), y=y, color=color)
    line = base.mark_line(strokeWidth=1.4, strokeJoin="round").encode(
        detail=alt.Detail("run:N"), order=alt.Order("step:Q")
    )
    hover = alt.selection_point(
        name="hover", nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    shown = alt.value(0.9) if points else alt.condition(hover, alt.value(1), alt.value(0))
    dots = base.mark_circle(size=44, tooltip=_nearest_tooltip(rows, quantity)).encode(opacity=shown)
    layers += [line.properties(name="curve"), dots.properties(name="point").add_params(hover)]
    return finished(layers, data)


def scatter_chart(
    rows: list[Row],
    x: tuple[str, Quantity],
    y: tuple[str, Quantity],
    colors: Colors,
    *,
    tooltips: Mapping[str, str],
    line: list[Row] | None = None,
) -> dict[str, Any]:
    """Return the specification of a chart with one mark for each language.

    Args:
        x, y: key of the rows and what it means.
        tooltips: formats of further keys, by key.
        line: ends of a reference line, with the same keys.
    """
    data = {"points": rows}
    encodings = {
        "x": alt.X(f"{x[0]}:Q", scale=value_scale(x[1]), axis=value_axis(x[1], ticks=8)),
        "y": value_y(y[1], y[0]),
    }
    layers = []
    if line:
        data["line"] = line
        layers.append(
            alt.Chart(alt.NamedData(name="line"), name="line")
            .mark_line(color="#9ca3af", strokeDash=[4, 4], strokeWidth=1)
            .encode(**encodings)
        )
    color = colors.encoding((), "circle") if colors.field == "run" else alt.value(PALETTE[0])
    layers.append(
        alt.Chart(alt.NamedData(name="points"), name="point")
        .mark_circle(size=26, opacity=0.55)
        .encode(
            **encodings, color=color, tooltip=_tooltips(["run", "language", *tooltips], tooltips)
        )
    )
    return finished(layers, data)


def event_chart(
    rows: list[Row], kinds: Sequence[str], axis: TokenAxis, colors: Colors
) -> dict[str, Any]:
    """Return the specification of events on the token axis, one line for each kind."""
    layers, data = axis.layers(colors)
    data["points"] = rows
    color = colors.encoding(()) if colors.field == "run" else alt.value(PALETTE[7])
    layers.append(
        alt.Chart(alt.NamedData(name="points"), name="point")
        .mark_tick(thickness=2, bandSize=16)
        .encode(
            x=axis.encoding(),
            y=alt.Y(
                "kind:N",
                scale=alt.Scale(domain=list(kinds)),
                axis=alt.Axis(title=None, minExtent=Y_EXTENT + 21, grid=True, domain=False),
            ),
            color=color,
            tooltip=_tooltips(("run", "kind", "step", "tokens", "text"), {}),
        )
    )
    return finished(layers, data, height=26 * len(kinds))


def _tooltips(keys: Sequence[str], formats: Mapping[str, str]) -> list[alt.Tooltip]:
    formats = {"step": ",", "tokens": ",", **formats}
    return [
        alt.Tooltip(f"{key}:Q", format=formats[key]) if key in formats else alt.Tooltip(f"{key}:N")
        for key in keys
    ]


def _nearest_tooltip(rows: Sequence[Row], quantity: Quantity) -> alt.ExprRef:
    """Return the tooltip of the point that is nearest to the pointer.

    Vega-Lite draws cells around such points whose data is the point's mark, and forgets that in the
    tooltips of texts. Hence an expression, which takes a cell and a point.
    """
    row = "(datum.datum || datum)"
    texts = [key for key in ("run", "series", "phase") if rows and key in rows[0]]
    parts = [f"{key}: {row}.{key}" for key in texts]
    parts += [f"{key}: format({row}.{key}, ',')" for key in ("step", "tokens")]
    title = quantity.short or quantity.title
    parts.append(f"'{title}': format({row}.value, '{quantity.format}')")
    return alt.ExprRef(f"{{{', '.join(parts)}}}")


def _value_tooltip(title: str, quantity: Quantity) -> alt.Tooltip:
    return alt.Tooltip("value:Q", title=title, format=quantity.format)


def finished(
    layers: Sequence[alt.Chart], data: Mapping[str, list[Row]], height: int = HEIGHT
) -> dict[str, Any]:
    """Return the specification of layers, as wide as their place on the page, with their data."""
    # Altair has checked the parts; checking the whole again takes longer than all else.
    spec = alt.layer(*layers).to_dict(validate=False)
    del spec["$schema"]  # an address, which the page does not need
    size = {"width": "container", "height": height}
    return {**spec, **size, "config": _CONFIG, "datasets": dict(data)}
