"""Picture of a recipe's phases over tokens (`mmbert plan --plot`), as SVG or as an offline page."""

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from mmbert.errors import ArgumentError, OutputError
from mmbert.files import atomic_write
from mmbert.planner.curves import Curve, language_counts, schedule_curves
from mmbert.planner.estimate import Estimate
from mmbert.recipe import GroupLearningRates, Recipe, format_quantity
from mmbert.schedule import TrainingPlan, training_plan

SUFFIXES = (".svg", ".html")
WIDTH = 700
_SHOW = "window.vegaEmbed = vegaEmbed;"
_HEIGHT = 74
_ROW_HEIGHT = 16
_CHARACTER_WIDTH = 6.4
_LONGEST_NAME = 32
_MOST_TICKS = 4

_BANDS = ("#e8eef6", "#f4f1ea")
_LINE, _TEXT, _QUIET = "#1f4e8c", "#222222", "#777777"
_AXES = {
    "domainColor": "#bbbbbb",
    "labelColor": _TEXT,
    "labelFontSize": 10,
    "tickColor": "#bbbbbb",
    "tickSize": 3,
    "titleColor": _TEXT,
    "titleFontSize": 11,
    "titleFontWeight": "normal",
    "grid": False,
}
# d3 writes a billion as G.
_TOKENS = "replace(format(datum.value, '.3~s'), 'G', 'B')"

# Title, logarithmic axis, label of a tick as a Vega expression. Languages grow 30 times and context
# 8 times over mmBERT's phases: on linear axes the first phases would lie on the axis.
_RATE = "format(datum.value, '~g')"
_PANELS = {
    "languages": ("Languages", True, "format(datum.value, ',')"),
    "mask ratio": ("Mask ratio", False, "format(datum.value, '~g')"),
    "predicted share": ("Predicted share, causal", False, "format(datum.value, '~g')"),
    "sampling temperature": ("Sampling temperature", False, "format(datum.value, '~g')"),
    "context": ("Context (tokens)", True, "format(datum.value, ',')"),
    "learning rate": ("Learning rate", False, _RATE),
    **{
        f"learning rate, {group}": (f"Learning rate, {group}", False, _RATE)
        for group in GroupLearningRates.model_fields
    },
    "batch": ("Batch (tokens per step)", True, _TOKENS),
}


def check_path(path: Path) -> None:
    """Raise ArgumentError or OutputError unless a picture can be written at `path`."""
    if path.suffix not in SUFFIXES:
        raise ArgumentError(
            f"--plot {path}: a picture is written as {' or '.join(SUFFIXES)}",
            remedy=f"name it {path.stem or 'plan'}.svg or {path.stem or 'plan'}.html",
        )
    if not path.parent.is_dir():
        raise OutputError(f"--plot {path}: there is no folder {path.parent}", remedy="create it")


def write_plot(estimate: Estimate, path: Path) -> None:
    """Draw the recipe of an estimate into the file `path`, atomically.

    Raises:
        ArgumentError: the suffix is unknown.
        OutputError: the folder does not exist.
    """
    check_path(path)
    recipe = estimate.recipe
    drawn = chart(recipe, language_counts(recipe, estimate.languages))
    text = to_svg(drawn) if path.suffix == ".svg" else to_html(drawn, title=recipe.name)
    with atomic_write(path) as file:
        file.write(text.encode())


def to_svg(drawn: alt.TopLevelMixin) -> str:
    """Return a chart as SVG."""
    buffer = io.StringIO()
    drawn.save(buffer, format="svg")
    return buffer.getvalue()


def to_html(drawn: alt.TopLevelMixin, *, title: str) -> str:
    """Return a chart as a page that needs no other file and no network.

    The policy in its head refuses all requests. In the chart's JSON, `<` is escaped: a name with
    `</script>` would end the script.
    """
    spec = json.dumps(drawn.to_dict()).replace("<", "\\u003c")
    policy = (
        "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<script>{vl_convert.javascript_bundle(_SHOW)}</script>\n</head>\n"
        '<body style="background: white">\n<div id="plan"></div>\n<script>\n'
        f'vegaEmbed("#plan", {spec}, {{"actions": false, "renderer": "svg"}});\n'
        "</script>\n</body>\n</html>\n"
    )


def chart(recipe: Recipe, languages: Sequence[int | None]) -> alt.VConcatChart:
    """Return the chart of a recipe: phase names, then one panel per setting over tokens.

    Args:
        languages: number of languages of each phase; None if it depends on shards.
    """
    plan = training_plan(recipe)
    bands = _bands(plan)
    curves = schedule_curves(recipe, plan, languages)
    unknown = [index for index, count in enumerate(languages) if count is None]
    panels: list[alt.LayerChart] = []
    for curve in curves:
        # The token axis is below the last panel. All layers of a panel must agree on it.
        axis = alt.Axis(title="Tokens", labelExpr=_TOKENS) if curve is curves[-1] else None
        layers = [_band_marks(plan, bands, axis), _line(curve, plan, axis)]
        if curve.name == "languages" and unknown:
            layers.append(_unknown_languages(plan, unknown))
        title = _PANELS[curve.name][0]
        heading = alt.Title(
            title, anchor="start", frame="group", fontSize=11, fontWeight="bold", color=_TEXT
        )
        panels.append(alt.LayerChart(layer=layers, width=WIDTH, height=_HEIGHT, title=heading))
    drawn = alt.vconcat(_names(plan, bands), *panels, spacing=8)
    drawn = drawn.properties(title=_title(recipe, plan), background="white", padding=12)
    return drawn.configure_view(stroke=None).configure_axis(**_AXES)


def _title(recipe: Recipe, plan: TrainingPlan) -> alt.Title:
    tokens = format_quantity(sum(phase.tokens for phase in recipe.phases))
    subtitle = f"{tokens} tokens, {plan.steps:,} steps"
    if recipe.variants:
        names = ", ".join(_shown(variant.name) for variant in recipe.variants)
        subtitle += f"; variants, not drawn: {names}"
    return alt.Title(
        _shown(recipe.name),
        subtitle=subtitle,
        anchor="start",
        frame="group",
        fontSize=15,
        color=_TEXT,
        subtitleColor=_QUIET,
        subtitlePadding=4,
        offset=10,
    )


def _shown(name: str) -> str:
    """Return a name in one line, shortened."""
    line = " ".join(name.split())
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"


def _bands(plan: TrainingPlan) -> list[dict[str, Any]]:
    return [
        {
            "phase": _shown(phase.name),
            "start": phase.first_token,
            "end": phase.first_token + phase.tokens,
            "steps": phase.steps,
            "color": _BANDS[phase.index % 2],
        }
        for phase in plan.phases
    ]


def _x(plan: TrainingPlan, axis: alt.Axis | None) -> dict[str, Any]:
    return {"scale": alt.Scale(domain=[0, plan.tokens], nice=False), "axis": axis}


def _band_marks(
    plan: TrainingPlan, bands: list[dict[str, Any]], axis: alt.Axis | None = None
) -> alt.Chart:
    tooltip = [
        alt.Tooltip("phase:N"),
        alt.Tooltip("start:Q", title="from token", format=","),
        alt.Tooltip("end:Q", title="to token", format=","),
        alt.Tooltip("steps:Q", format=","),
    ]
    marks = alt.Chart(alt.Data(values=bands)).mark_rect()
    return marks.encode(
        alt.X("start:Q", **_x(plan, axis)),
        alt.X2("end:Q"),
        color=alt.Color("color:N", scale=None),
        tooltip=tooltip,
    )


def _names(plan: TrainingPlan, bands: list[dict[str, Any]]) -> alt.LayerChart:
    """Return the strip with the phases' names, in as many rows as their widths need."""
    rows: list[float] = []  # pixels up to which each row is taken
    labels = []
    for band in bands:
        width = _CHARACTER_WIDTH * len(band["phase"])
        middle = (band["start"] + band["end"]) / 2 / plan.tokens * WIDTH
        middle = min(max(middle, width / 2), WIDTH - width / 2)
        row = next((i for i, taken in enumerate(rows) if taken < middle - width / 2), len(rows))
        rows[row : row + 1] = [middle + width / 2 + _CHARACTER_WIDTH]
        labels.append({"phase": band["phase"], "x": middle, "y": (row + 0.5) * _ROW_HEIGHT})
    text = alt.Chart(alt.Data(values=labels)).mark_text(fontSize=11, color=_TEXT)
    placed = text.encode(
        x=alt.X("x:Q", scale=None, axis=None),
        y=alt.Y("y:Q", scale=None, axis=None),
        text="phase:N",
    )
    return alt.LayerChart(
        layer=[_band_marks(plan, bands), placed], width=WIDTH, height=_ROW_HEIGHT * len(rows)
    ).resolve_scale(x="independent")


def _line(curve: Curve, plan: TrainingPlan, axis: alt.Axis | None) -> alt.Chart:
    points = [
        {"tokens": point.tokens, "value": point.value, "order": order, "piece": number}
        for number, piece in enumerate(curve.pieces)
        for order, point in enumerate(piece)
    ]
    _, logarithmic, label = _PANELS[curve.name]
    marks = alt.Chart(alt.Data(values=points)).mark_line(
        color=_LINE, strokeWidth=2, interpolate="linear", strokeJoin="round"
    )
    return marks.encode(
        alt.X("tokens:Q", **_x(plan, axis)),
        alt.Y("value:Q", scale=_scale(curve, logarithmic), axis=_axis(curve, plan, label)),
        order="order:Q",
        detail="piece:N",
    )


def _scale(curve: Curve, logarithmic: bool) -> alt.Scale:
    values = curve.values or [1]
    if logarithmic:
        return alt.Scale(type="log", domain=[values[0] / 1.4, values[-1] * 1.4], nice=False)
    return alt.Scale(domain=[0, values[-1] * 1.1 or 1], nice=False)


def _axis(curve: Curve, plan: TrainingPlan, label: str) -> alt.Axis:
    """Return an axis with ticks at the values that occur, or at round ones if they are many."""
    values = curve.values
    if curve.name == "batch":
        sizes = {phase.stages[-1].rows for phase in plan.phases} | {plan.phases[0].stages[0].rows}
        values = sorted(rows * plan.row_tokens for rows in sizes)
    few = len(values) <= _MOST_TICKS or _PANELS[curve.name][1]
    ticks: dict[str, Any] = {"values": values} if few else {"tickCount": 3}
    return alt.Axis(
        title=None, labelExpr=label, labelOverlap="greedy", minExtent=52, maxExtent=52, **ticks
    )


def _unknown_languages(plan: TrainingPlan, unknown: Sequence[int]) -> alt.Chart:
    """Return the note in the widest phase whose number of languages depends on shards."""
    widest = max((plan.phases[index] for index in unknown), key=lambda phase: phase.tokens)
    middle = (widest.first_token + widest.tokens / 2) / plan.tokens
    note = "depends on the shards: give --data"
    margin = _CHARACTER_WIDTH * len(note) / 2 / WIDTH
    place = {"tokens": min(max(middle, margin), 1 - margin) * plan.tokens, "note": note}
    return (
        alt.Chart(alt.Data(values=[place]))
        .mark_text(color=_QUIET, fontStyle="italic", fontSize=11)
        .encode(alt.X("tokens:Q", **_x(plan, None)), y=alt.value(_HEIGHT / 2), text="note:N")
    )
