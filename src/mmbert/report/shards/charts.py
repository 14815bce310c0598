"""Charts of the page: tokens by script, document lengths, rejected documents, byte fallback."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from mmbert.report.axes import COUNT_LABELS, PALETTE, Quantity, value_axis, value_scale, value_y
from mmbert.report.charts import finished
from mmbert.report.curves import Row, rounded
from mmbert.report.figures import Figure, Section
from mmbert.report.shards.contents import ShardsContents
from mmbert.report.shards.document_lengths import BINS
from mmbert.report.shards.names import language_name, script_name

_MOST_BARS = 20
_BAR_PIXELS = 20


def add_charts(
    contents: ShardsContents, scripts: Section, lengths: Section, rejected: Section
) -> None:
    """Add to each section its charts, or why it has none."""
    tokens: dict[str, int] = {}
    for language in contents.languages:
        if language.tokens:
            tokens[language.script] = tokens.get(language.script, 0) + language.tokens
    ordered = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))
    rows = [{"name": script_name(script) or "none", "value": n} for script, n in ordered]
    _add_bars(scripts, "scripts", "Training tokens by script", "Tokens", rows)
    _add_byte_fallback(scripts, contents)
    found = [0] * BINS
    for language in contents.languages:
        if language.lengths is not None:
            bins = language.lengths.by_power_of_two().tolist()
            found = [a + b for a, b in zip(found, bins, strict=True)]
    used = [n for n, count in enumerate(found) if count]
    rows = [
        {"name": f"{1 << n:,} – {(2 << n) - 1:,}", "value": found[n]}
        for n in range(min(used, default=0), max(used, default=-1) + 1)
    ]
    title = "Training documents by length in tokens"
    _add_bars(lengths, "lengths", title, "Documents", rows, most=BINS)
    rows = [{"name": reason, "value": n} for reason, n in contents.rejected().most_common()]
    _add_bars(rejected, "rejected", "Rejected documents by reason", "Documents", rows)


def _add_bars(
    section: Section, ident: str, title: str, unit: str, rows: Sequence[Row], most: int = _MOST_BARS
) -> None:
    """Add horizontal bars in the order of `rows`, the first `most` of them."""
    if not rows:
        section.absent.append(f"{title}: none.")
        return
    shown = list(rows[:most])
    chart = (
        alt.Chart(alt.NamedData(name="points"), name="bar")
        .mark_bar(color=PALETTE[0])
        .encode(
            x=alt.X("value:Q", axis=alt.Axis(title=unit, labelExpr=COUNT_LABELS, tickCount=6)),
            y=alt.Y(
                "name:N",
                scale=alt.Scale(domain=[row["name"] for row in shown]),
                axis=alt.Axis(title=None, labelLimit=240),
            ),
            tooltip=[
                alt.Tooltip("name:N", title=title),
                alt.Tooltip("value:Q", title=unit.lower(), format=","),
            ],
        )
    )
    spec = finished([chart], {"points": shown}, height=_BAR_PIXELS * len(shown))
    section.figures.append(Figure(ident, title, "", _caption(len(shown), len(rows)), spec))


def _add_byte_fallback(section: Section, contents: ShardsContents) -> None:
    title = "Byte fallback by size of the language"
    rows = [
        {
            "source": language.source,
            "language": language.language,
            "name": language_name(language.language),
            "tokens": language.tokens,
            "share": rounded(language.figures.byte_fallback_share),
        }
        for language in contents.languages
        if language.tokens and language.figures.byte_fallback_share is not None
    ]
    if not rows:
        section.absent.append(f"{title}: not in the summaries.")
        return
    size = Quantity("Training tokens", ",", log=True)
    share = Quantity("Tokens that are single bytes", ".2%", axis_format=".0%", zero=True)
    tooltips: list[Any] = [alt.Tooltip(f"{key}:N") for key in ("source", "language", "name")]
    tooltips += [
        alt.Tooltip("tokens:Q", format=","),
        alt.Tooltip("share:Q", format=".2%", title="byte fallback"),
    ]
    chart = (
        alt.Chart(alt.NamedData(name="points"), name="point")
        .mark_circle(size=26, opacity=0.55, color=PALETTE[0])
        .encode(
            x=alt.X("tokens:Q", scale=value_scale(size), axis=value_axis(size, ticks=8)),
            y=value_y(share, "share"),
            tooltip=tooltips,
        )
    )
    text = "A high share means that the tokenizer lacks the language's characters or words."
    spec = finished([chart], {"points": rows})
    section.figures.append(Figure("byte-fallback", title, text, _caption(len(rows)), spec))


def _caption(shown: int, total: int | None = None) -> str:
    return f"{shown:,} of {shown if total is None else total:,} values drawn"
