"""The page in a browser: every mark against the log, no request, no error, texts as texts."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mmbert.report import curves
from mmbert.report.page import write_report
from tests.report.test_page import HOSTILE, hostile_run
from tests.support.logged_run import LoggedRun, write_fingerprint

Found = dict[str, Any]
Curves = Mapping[str, list[tuple[float, float]]]

# Positions of all marks of a view, inverted to values; the color names the series.
MARKS = """
id => {
  const view = window.reportViews[id], scales = {};
  for (const name of ["x", "y", "color"]) { try { scales[name] = view.scale(name); } catch {} }
  const {x, y, color} = scales, found = [];
  const inverted = (scale, at) => scale && scale.invert ? scale.invert(at) : null;
  const series = item => {
    if (!color) return null;
    const shown = item.stroke && item.stroke !== "transparent" ? item.stroke : item.fill;
    return color.domain().find(name => color(name) === shown) ?? null;
  };
  const kind = at =>
    y && y.bandwidth ? y.domain().find(k => Math.abs(y(k) + y.bandwidth() / 2 - at) < 0.5) : null;
  const walk = mark => {
    if (mark.role.startsWith("axis") || mark.role.startsWith("legend")) return;
    for (const item of mark.items) {
      if (mark.marktype === "group") { item.items.forEach(walk); continue; }
      if (mark.name === "voronoi" || mark.marktype === "path") continue;
      const width = item.width ?? 0, height = item.height ?? 0;
      found.push({
        mark: mark.name.replace(/_marks$/, ""), series: series(item), text: item.text ?? null,
        x: inverted(x, item.x), x2: inverted(x, item.x + width), y: inverted(y, item.y),
        middle: inverted(x, item.x + width / 2), kind: kind(item.y + height / 2),
      });
    }
  };
  walk(view.scenegraph().root);
  return found;
}
"""

# Where the last point of a chart is on the screen.
LAST_POINT = """
id => {
  const view = window.reportViews[id];
  const find = mark => mark.marktype === "group"
    ? mark.items.flatMap(item => item.items.flatMap(find))
    : mark.name === "point_marks" ? mark.items : [];
  const {x1, x2, y1, y2} = find(view.scenegraph().root).at(-1).bounds;
  const canvas = view.container().querySelector("canvas");
  canvas.scrollIntoView();
  const box = canvas.getBoundingClientRect(), [left, top] = view.origin(), pad = view.padding();
  return [box.left + pad.left + left + (x1 + x2) / 2, box.top + pad.top + top + (y1 + y2) / 2];
}
"""


@contextmanager
def opened(browser: Any, path: Path) -> Iterator[Any]:
    """Open a page from its file; it may request nothing else and log no error."""
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type in ("error", "warning") else 0,
    )
    page.route(
        "**/*",
        lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort(),
    )
    page.goto(path.as_uri())
    page.evaluate("window.reportReady")
    yield page
    assert requests == [path.as_uri()]
    assert errors == []
    page.close()


def logged(run: Path) -> list[dict[str, Any]]:
    """Read the valid records of a log, without the project's reader."""
    valid: dict[int, dict[str, Any]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry.get("event") in ("start", "rollback"):
            valid = {step: record for step, record in valid.items() if step <= entry["step"]}
        elif "event" not in entry:
            valid[entry["step"]] = entry
    return [valid[step] for step in sorted(valid)]


def events_of(run: Path) -> list[dict[str, Any]]:
    """Read the events of a log."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if "event" in entry]


def curves_of(run: Path) -> dict[str, Curves]:
    """Compute the points of every chart over tokens, by id of the chart and series."""
    records = logged(run)

    def points(value: Any) -> list[tuple[float, float]]:
        return [(r["tokens"], value(r)) for r in records if value(r) is not None]

    names = dict.fromkeys(name for r in records for name in r["loss_by_tier"])
    parts = dict.fromkeys(name for r in records for name in r["time"])
    held_out: dict[str, dict[int, float]] = defaultdict(dict)
    steps = {0: 0} | {record["step"]: record["tokens"] for record in records}
    for event in events_of(run):
        if event["event"] == "held-out":
            for name, loss in {"all": event["overall"], **event["tiers"]}.items():
                held_out[name][steps[event["step"]]] = loss
    found: dict[str, Curves] = {
        "loss-by-tier": {n: points(lambda r, n=n: r["loss_by_tier"].get(n)) for n in names},
        "time": {
            n: points(lambda r, n=n: r["time"].get(n, 0.0) / r["interval_seconds"]) for n in parts
        },
        "held-out": {name: sorted(losses.items()) for name, losses in held_out.items()},
        "epochs": {
            "maximum": points(lambda r: r["epochs_max"]),
            "median": points(lambda r: r["epochs_median"]),
        },
    }
    for ident, key in {
        "loss": "loss", "share-error": "share_error_max", "tokens-per-second": "tokens_per_second",
        "mfu": "mfu", "model-flops": "model_flops_per_second", "memory": "peak_memory_mib",
        "gradient-norm": "gradient_norm", "learning-rate": "learning_rate",
        "mask-ratio": "mask_ratio", "temperature": "temperature",
    }.items():  # fmt: skip
        found[ident] = {"": points(lambda r, key=key: r[key])}
    return found


def scatters_of(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Compute the points of every chart of languages, by id."""
    last = [record for record in logged(run) if "share_by_language" in record][-1]
    phases = json.loads((run / "results.json").read_text())["phases"]
    start, end = (phases[at][f"held_out_{key}"] for at, key in ((0, "start"), (-1, "end")))
    sizes = [e for e in events_of(run) if e["event"] == "start"][-1]["train_tokens_by_language"]
    return {
        "gain": [(sizes[n], start["languages"][n] - end["languages"][n]) for n in sizes],
        "shares": [
            (last["wanted_share_by_language"][n], last["share_by_language"][n]) for n in sizes
        ],
        "epochs-by-size": [(sizes[n], last["epochs_by_language"][n]) for n in sizes],
    }


def assert_same_points(marks: list[Found], expected: list[tuple[float, float]], where: str) -> None:
    """Compare marks with points, up to the digits that the page keeps."""
    assert len(marks) == len(expected), where
    for mark, point in zip(
        sorted(marks, key=lambda m: (m["x"], m["y"])), sorted(expected), strict=True
    ):
        for found, value in zip((mark["x"], mark["y"]), point, strict=True):
            assert math.isclose(found, value, rel_tol=2e-6, abs_tol=1e-9), (where, mark, point)


def by_mark(marks: list[Found]) -> dict[str, list[Found]]:
    """Group marks by the name of their mark."""
    groups: dict[str, list[Found]] = defaultdict(list)
    for mark in marks:
        groups[mark["mark"]].append(mark)
    return groups


def test_every_mark_of_every_chart_is_a_point_of_the_log(browser: Any, tmp_path: Path) -> None:
    spike = {"event": "spike", "step": 21, "text": "step 21: loss spike"}
    run = LoggedRun(steps=60, restarts=((33, 25), (26, 26)), events=(spike,))
    folder = run.write(tmp_path / "run")
    write_report([folder], tmp_path / "report.html")
    phases = json.loads((folder / "results.json").read_text())
    bounds = [20 * 1024 * at for at in range(4)]
    with opened(browser, tmp_path / "report.html") as page:
        charts = page.evaluate("Object.keys(window.reportViews)")
        by_tokens, scatters = curves_of(folder), scatters_of(folder)
        assert sorted(charts) == sorted([*by_tokens, *scatters, "events"])
        for chart in charts:
            groups = by_mark(page.evaluate(MARKS, chart))
            known = {"band", "phase", "curve", "point", "restart", "rule", "line"}
            assert set(groups) <= known, chart
            if chart in scatters:
                assert_same_points(groups["point"], scatters[chart], chart)
                continue
            bands = [(round(m["x"]), round(m["x2"])) for m in groups["band"]]
            assert bands == list(pairwise(bounds))
            assert [m["text"] for m in groups["phase"]] == list(run.phases)
            assert [round(m["x"]) for m in groups["phase"]] == bounds[:-1]
            if chart == "events":
                found = sorted((m["kind"], round(m["middle"])) for m in groups["point"])
                starts = [("start", 1024 * step) for step in (0, 25, 26)]
                assert found == [("spike", 21 * 1024), *starts]
                continue
            for series, expected in by_tokens[chart].items():
                for kind in ("curve", "point"):
                    marks = [m for m in groups[kind] if not series or m["series"] == series]
                    assert_same_points(marks, expected, f"{chart} {series} {kind}")
            total = sum(map(len, by_tokens[chart].values()))
            assert (len(groups["curve"]), len(groups["point"])) == (total, total)
        rules = by_mark(page.evaluate(MARKS, "held-out"))["rule"]
        unigram = {"all": phases["unigram"]["overall"], **phases["unigram"]["tiers"]}
        assert {m["series"]: m["y"] for m in rules} == pytest.approx(unigram)
        restarts = by_mark(page.evaluate(MARKS, "loss"))["restart"]
        assert [round(m["x"]) for m in restarts] == [25 * 1024, 26 * 1024]
        loss = f"{logged(folder)[-1]['loss']:.4f}"
        told = ["run", "run", "series", "all", "step", "60", "tokens", "61,440", "loss", loss]
        assert tooltip_of(page, "loss").split() == told


def test_of_a_long_curve_real_points_are_drawn_with_the_extremes(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "MAX_BINS", 40)  # a curve of 1,200 points takes a browser seconds
    folder = LoggedRun(steps=300, restarts=((170, 150),)).write(tmp_path / "run")
    write_report([folder], tmp_path / "report.html")
    expected = [(r["tokens"], float(f"{r['loss']:.7g}")) for r in logged(folder)]
    with opened(browser, tmp_path / "report.html") as page:
        marks = by_mark(page.evaluate(MARKS, "loss"))["curve"]
        caption = page.inner_text("figure:has(#chart-loss) figcaption")
        assert caption == f"{len(marks)} of 300 points drawn"
    assert 80 < len(marks) <= 160
    values = dict(expected)
    drawn = {round(mark["x"]): mark["y"] for mark in marks}
    assert all(math.isclose(y, values[x], rel_tol=1e-6) for x, y in drawn.items())
    lowest, highest = (pick(expected, key=lambda p: p[1])[0] for pick in (min, max))
    assert {expected[0][0], expected[-1][0], lowest, highest} <= set(drawn)


def test_several_runs_are_told_apart_by_color(browser: Any, tmp_path: Path) -> None:
    runs = [
        LoggedRun(steps=30, seed=0).write(tmp_path / "one"),
        LoggedRun(steps=24, seed=1, phases=("pretrain", "decay")).write(tmp_path / "two"),
    ]
    write_fingerprint(runs[1], "b" * 64)
    write_report(runs, tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        for chart, key, series in (
            ("loss", "loss", ""), ("loss-by-tier-0", "loss-by-tier", "pretrain"),
            ("loss-by-tier-1", "loss-by-tier", "extension"), ("epochs-1", "epochs", "median"),
            ("held-out-0", "held-out", "all"), ("mfu", "mfu", ""),
        ):  # fmt: skip
            groups = by_mark(page.evaluate(MARKS, chart))
            assert "band" not in groups
            begun = [(m["series"], round(m["x"])) for m in groups["boundary"]]
            assert begun == [("one", 10240), ("one", 20480), ("two", 12288)]
            for run in runs:
                marks = [m for m in groups["curve"] if m["series"] == run.name]
                assert_same_points(marks, list(curves_of(run)[key].get(series, [])), chart)
        for chart in ("gain", "shares", "epochs-by-size"):
            groups = by_mark(page.evaluate(MARKS, chart))
            for run in runs:
                marks = [m for m in groups["point"] if m["series"] == run.name]
                assert_same_points(marks, scatters_of(run)[chart], chart)
        assert page.is_visible("#not-comparable")


def test_hostile_names_are_shown_as_text(browser: Any, tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "<img src=x onerror=alert(1)>")
    write_report([run], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        assert page.locator("img, iframe, object").count() == 0
        assert page.inner_text("h1") == "Training report: <img src=x onerror=alert(1)>"
        assert printable(HOSTILE) in printable(page.inner_text("main"))
        for chart, text in (("events", f"event{HOSTILE}"), ("loss-by-tier", f"b{HOSTILE}")):
            assert printable(text) in printable(tooltip_of(page, chart))
            assert page.locator("img").count() == 0


def printable(text: str) -> str:
    """Return a text without the line separator, which browsers drop."""
    return text.replace("\u2028", "")


def tooltip_of(page: Any, chart: str) -> str:
    """Point at the last point of a chart and return the text of the tooltip."""
    page.mouse.move(0, 0)
    page.wait_for_selector("#vg-tooltip-element.visible", state="detached", timeout=5000)
    page.mouse.move(*page.evaluate(LAST_POINT, chart))
    page.wait_for_selector("#vg-tooltip-element.visible", timeout=5000)
    return str(page.inner_text("#vg-tooltip-element"))
