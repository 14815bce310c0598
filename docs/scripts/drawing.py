"""Boxes, arrows, texts and tiles in pixels, drawn with Altair."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

INK, QUIET, ARROW = "#1f2933", "#5f6b7a", "#7b8794"
FILLS = {
    "program": ("#e4edf8", "#8fb0d9"),
    "file": ("#fbf3df", "#d8bf86"),
    "group": ("#f7f8fa", "#dde2e8"),
    "model": ("#e6f3ea", "#93c3a2"),
}
LINE_HEIGHT = 14


@dataclass(frozen=True)
class Box:
    """Rectangle with a title and lines of text; the title of a `group` is in its corner."""

    x: float
    y: float
    width: float
    height: float
    title: str
    lines: tuple[str, ...] = ()
    kind: str = "program"

    @property
    def left(self) -> tuple[float, float]:
        """Middle of the left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        """Middle of the right side."""
        return self.x + self.width, self.y + self.height / 2

    def top(self, share: float = 0.5) -> tuple[float, float]:
        """Return the point of the top side at `share` of its width."""
        return self.x + share * self.width, self.y

    def bottom(self, share: float = 0.5) -> tuple[float, float]:
        """Return the point of the bottom side at `share` of its width."""
        return self.x + share * self.width, self.y + self.height


@dataclass(frozen=True)
class Arrow:
    """Horizontal and vertical lines through `points`, with a head at the last."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Text:
    """A line of text; `y` is its middle."""

    x: float
    y: float
    text: str
    size: float = 11
    color: str = INK
    align: Literal["left", "center", "right"] = "left"
    bold: bool = False
    angle: float = 0


@dataclass(frozen=True)
class Tile:
    """Filled rectangle without text."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = "none"


Shape = Box | Arrow | Text | Tile


def figure(width: int, height: int, shapes: Sequence[Shape], *, description: str) -> alt.LayerChart:
    """Return a chart of shapes on white: boxes, tiles, arrows, then texts."""
    boxes: list[dict[str, Any]] = []
    tiles: list[dict[str, Any]] = []
    arrows: list[Arrow] = []
    texts: list[Text] = []
    for shape in shapes:
        if isinstance(shape, Box):
            fill, stroke = FILLS[shape.kind]
            boxes.append(_rectangle(shape, fill, stroke))
            texts += _box_texts(shape)
        elif isinstance(shape, Tile):
            tiles.append(_rectangle(shape, shape.fill, shape.stroke))
        elif isinstance(shape, Arrow):
            arrows.append(shape)
        else:
            texts.append(shape)
    layers = [
        _rectangles(boxes, corner=3),
        _rectangles(tiles, corner=0),
        *_arrows(arrows),
        *_texts(texts),
    ]
    chart = alt.LayerChart(layer=layers, width=width, height=height, description=description)
    return chart.properties(background="white", padding=8).configure_view(stroke=None)


def to_svg(chart: alt.TopLevelMixin) -> str:
    """Return a chart as SVG."""
    buffer = io.StringIO()
    chart.save(buffer, format="svg")
    return buffer.getvalue()


def _rectangle(shape: Box | Tile, fill: str, stroke: str) -> dict[str, Any]:
    return {
        "x": shape.x, "y": shape.y, "x2": shape.x + shape.width, "y2": shape.y + shape.height,
        "fill": fill, "stroke": stroke,
    }  # fmt: skip


def _box_texts(box: Box) -> Iterable[Text]:
    if box.kind == "group":
        yield Text(box.x + 10, box.y + 14, box.title, 11, QUIET, bold=True)
        return
    middle = box.x + box.width / 2
    y = box.y + box.height / 2 - LINE_HEIGHT * len(box.lines) / 2
    yield Text(middle, y, box.title, 12, INK, "center", bold=True)
    for number, line in enumerate(box.lines, start=1):
        yield Text(middle, y + 1 + number * LINE_HEIGHT, line, 10.5, QUIET, "center")


def _place(rows: list[dict[str, Any]]) -> tuple[alt.Chart, dict[str, Any]]:
    position = {
        "x": alt.X("x:Q", scale=None, axis=None),
        "y": alt.Y("y:Q", scale=None, axis=None),
    }
    return alt.Chart(alt.Data(values=rows)), position


def _rectangles(rows: list[dict[str, Any]], *, corner: float) -> alt.Chart:
    chart, position = _place(rows)
    return chart.mark_rect(cornerRadius=corner, strokeWidth=1).encode(
        **position,
        x2="x2:Q",
        y2="y2:Q",
        fill=alt.Fill("fill:N", scale=None),
        stroke=alt.Stroke("stroke:N", scale=None),
    )


def _arrows(arrows: Sequence[Arrow]) -> Iterable[alt.Chart]:
    if not arrows:
        return
    corners, heads = [], []
    for number, arrow in enumerate(arrows):
        (ax, ay), (bx, by) = arrow.points[-2:]
        across = abs(bx - ax) > abs(by - ay)
        side = ("right" if bx > ax else "left") if across else ("down" if by > ay else "up")
        back = {"right": (-4, 0), "left": (4, 0), "down": (0, -4), "up": (0, 4)}[side]
        end = (bx + back[0], by + back[1])
        heads.append({"x": end[0], "y": end[1], "shape": f"triangle-{side}"})
        for order, (x, y) in enumerate((*arrow.points[:-1], end)):
            corners.append({"x": x, "y": y, "order": order, "arrow": number})
    chart, position = _place(corners)
    yield chart.mark_line(color=ARROW, strokeWidth=1.4, strokeJoin="round").encode(
        **position, order="order:Q", detail="arrow:N"
    )
    chart, position = _place(heads)
    yield chart.mark_point(filled=True, size=46, opacity=1, color=ARROW).encode(
        **position, shape=alt.Shape("shape:N", scale=None)
    )


def _texts(texts: Sequence[Text]) -> Iterable[alt.Chart]:
    """Yield a layer per alignment and weight, which cannot vary within one."""
    for style in sorted({(text.align, text.bold, text.angle) for text in texts}):
        align, bold, angle = style
        rows = [
            {"x": t.x, "y": t.y, "text": t.text, "size": t.size, "color": t.color}
            for t in texts
            if (t.align, t.bold, t.angle) == style
        ]
        chart, position = _place(rows)
        yield chart.mark_text(
            align=align,
            baseline="middle",
            fontWeight="bold" if bold else "normal",
            angle=angle % 360,
        ).encode(
            **position,
            text="text:N",
            size=alt.Size("size:Q", scale=None),
            color=alt.Color("color:N", scale=None),
        )
