"""The picture of `mmbert plan --plot`: points of the schedule, escaped names, no requests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mmbert import planner
from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.planner.curves import Curve, language_counts, schedule_curves
from mmbert.planner.plot import WIDTH, chart, to_html, to_svg, write_plot
from mmbert.recipe import Recipe, load_recipe, override_recipe
from mmbert.recipe.named import recipe_names
from mmbert.schedule import StepPlan, step_settings, training_plan
from tests.planner.test_data_statistics import planned
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe

HOSTILE = '</script><script>document.title="taken"</script><b a="&amp;\'">'
CURVES = ["languages", "mask ratio", "sampling temperature", "context", "learning rate", "batch"]


def _curved() -> Recipe:
    """Return a recipe with every kind of corner: growth, warm-ups, decays, moving temperature."""
    return small_recipe(
        phase(
            "first", 900_000, languages=["eng", "deu"], temperature={"start": 0.9, "end": 0.2},
            learning_rate={"warmup": 70_000, "shape": "cosine", "decay_tokens": 300_000},
        ),
        phase("second", 40_000, rows=6, learning_rate={"peak": 5e-4}),
        phase(
            "third", 500_000, languages=["eng", "deu", "swh"], context=512,
            learning_rate={"warmup": 20_000, "shape": "one_minus_sqrt", "final": 0.1},
        ),
        rows=24,
        batch={
            "row_tokens": 512, "rows": 24, "quantum": 6, "growth": {"tokens": "90k", "from_rows": 6}
        },
    )  # fmt: skip


RECIPES = [*recipe_names(), "curved"]


def _recipe(name: str) -> Recipe:
    return _curved() if name == "curved" else load_recipe(name)


def _value(recipe: Recipe, curve: str, at: StepPlan, languages: tuple[int | None, ...]) -> Any:
    settings = step_settings(recipe, training_plan(recipe), at.step)
    peak = recipe.optimizer.learning_rate
    of_groups = {
        f"learning rate, {group}": rate / peak * settings.learning_rate
        for group, rate in _group_rates(recipe).items()
    }
    values: dict[str, Any] = {
        **of_groups,
        "languages": languages[at.phase_index],
        "mask ratio": settings.mask_ratio,
        "sampling temperature": settings.temperature,
        "context": recipe.phases[at.phase_index].context,
        "learning rate": settings.learning_rate,
        "batch": at.tokens_after - at.tokens_before,
    }
    return values[curve]


def _group_rates(recipe: Recipe) -> dict[str, float]:
    rates = recipe.optimizer.group_learning_rates
    return {} if rates is None else rates.model_dump(exclude_none=True)


@pytest.mark.parametrize("name", RECIPES)
def test_curves_pass_through_the_schedule(name: str) -> None:
    """Between drawn points, the straight line is the schedule to a thousandth of the largest."""
    recipe = _recipe(name)
    plan, languages = training_plan(recipe), language_counts(recipe, None)
    curves = schedule_curves(recipe, plan, languages)
    of_groups = [f"learning rate, {group}" for group in _group_rates(recipe)]
    assert [curve.name for curve in curves] == [*CURVES[:5], *of_groups, CURVES[5]]
    edges = [s.first_step + k for p in plan.phases for s in p.stages for k in (0, s.steps - 1)]
    spread = np.linspace(0, plan.steps - 1, 500).astype(int).tolist()
    for step in sorted({*edges, *spread}):
        at = plan.at(step)
        for curve in curves:
            expected = _value(recipe, curve.name, at, languages)
            if expected is None:
                continue
            assert _on(curve, at.tokens_before) == pytest.approx(
                expected, abs=1e-3 * curve.values[-1]
            ), (curve.name, step)


@pytest.mark.parametrize("name", RECIPES)
def test_corners_are_exact(name: str) -> None:
    recipe = _recipe(name)
    plan, languages = training_plan(recipe), language_counts(recipe, None)
    for curve in schedule_curves(recipe, plan, languages):
        for planned_phase in plan.phases:
            for stage in planned_phase.stages:
                for step in (stage.first_step, stage.first_step + stage.steps - 1):
                    at = plan.at(step)
                    expected = _value(recipe, curve.name, at, languages)
                    if expected is not None:
                        assert _on(curve, at.tokens_before) == pytest.approx(expected, rel=1e-12)


def test_a_causal_phase_has_a_share_and_no_mask_ratio() -> None:
    keys = {"objective": "causal", "mask_ratio": None, "predicted_share": 0.25}
    recipe = _curved()
    for index, names in ((0, ["mask ratio", "predicted share"]), (1, None), (2, None)):
        recipe = override_recipe(recipe, {f"phases.{index}.{key}": keys[key] for key in keys})
        plan = training_plan(recipe)
        curves = {curve.name: curve for curve in schedule_curves(recipe, plan, (2, 2, 3))}
        share = curves["predicted share"].pieces
        assert [point.value for point in share[0]] == [0.25, 0.25]
        assert share[0][-1].tokens == plan.phases[index].first_token + plan.phases[index].tokens
        if names is not None:
            assert curves["mask ratio"].pieces[0][0].tokens == plan.phases[1].first_token
        assert "Predicted share, causal" in to_svg(chart(recipe, (2, 2, 3)))
    assert "mask ratio" not in curves


def test_warm_up_and_decay_end_where_they_should() -> None:
    recipe = _curved()
    plan = training_plan(recipe)
    rate = schedule_curves(recipe, plan, (2, 2, 3))[4]
    points = [point for piece in rate.pieces for point in piece]
    first, _, third = plan.phases
    top = [p.tokens for p in points if p.value == 1e-3 and p.tokens < first.tokens]
    assert top[0] <= 70_000 < top[0] + 24 * 512
    assert abs(top[-1] - (first.tokens - 300_000)) <= 24 * 512
    assert {p.value for p in points if first.tokens < p.tokens < third.first_token} <= {5e-4}
    assert points[-1].value == pytest.approx(1e-4, rel=0.3)
    assert points[-1].tokens == plan.tokens


@pytest.mark.parametrize("name", ["mmbert-base", "curved"])
def test_drawn_lines_have_the_points_of_the_curves(name: str) -> None:
    recipe = _recipe(name)
    plan, languages = training_plan(recipe), language_counts(recipe, None)
    curves = schedule_curves(recipe, plan, languages)
    drawn = chart(recipe, languages).to_dict()
    panels = drawn["vconcat"][1:]
    assert len(panels) == len(curves)
    for panel, curve in zip(panels, curves, strict=True):
        found = _data(drawn, panel["layer"][1])
        expected = [(p.tokens, p.value) for piece in curve.pieces for p in piece]
        assert [(row["tokens"], row["value"]) for row in found] == expected


def test_the_svg_draws_the_learning_rate_to_scale() -> None:
    recipe = load_recipe("mmbert-base")
    plan = training_plan(recipe)
    rate = schedule_curves(recipe, plan, (60, 110, 1833))[4]
    paths = _lines(to_svg(chart(recipe, (60, 110, 1833))))
    assert len(paths) == len(CURVES)
    vertices = paths[4]
    points = [point for piece in rate.pieces for point in piece]
    assert len(vertices) == len(points)
    top = min(y for _, y in vertices)
    bottom = max(y for _, y in vertices)
    for (x, y), point in zip(vertices, points, strict=True):
        assert x == pytest.approx(point.tokens / plan.tokens * WIDTH, abs=0.01)
        share = (y - bottom) / (top - bottom)
        low, high = rate.values[0], rate.values[-1]
        assert share == pytest.approx((point.value - low) / (high - low), abs=0.01)


def test_rates_of_groups_have_panels_of_their_own() -> None:
    rates = ["optimizer.group_learning_rates.rest=3e-3", "phases.decay.learning_rate.peak=1e-4"]
    recipe = load_recipe("mmbert-base", rates)
    curves = schedule_curves(recipe, training_plan(recipe), (60, 110, 1833))
    names = [curve.name for curve in curves]
    assert names == [*CURVES[:5], "learning rate, rest", CURVES[5]]
    of_all, of_rest = (
        [point for piece in curves[number].pieces for point in piece] for number in (4, 5)
    )
    assert [point.value for point in of_rest] == pytest.approx(
        [point.value * 3e-3 / 8e-4 for point in of_all]
    )
    svg = to_svg(chart(recipe, (60, 110, 1833)))
    assert len(_lines(svg)) == len(names)
    assert "Learning rate, rest" in _text(svg)


def test_pictures_are_deterministic() -> None:
    recipe = load_recipe("demo")
    assert to_svg(chart(recipe, (1, 2, 3))) == to_svg(chart(recipe, (1, 2, 3)))


def test_a_single_phase_is_drawn() -> None:
    recipe = load_recipe("adapt")
    svg = to_svg(chart(recipe, language_counts(recipe, None)))
    assert len(_lines(svg)) == len(CURVES) - 1
    assert "give --data" in _text(svg)


def test_variants_are_named_and_not_drawn() -> None:
    text = _text(to_svg(chart(load_recipe("mmbert-base"), (60, 110, 1833))))
    assert "variants, not drawn: continued, english" in text
    assert "give --data" not in text


def test_languages_are_counted_from_names_or_from_shards(tmp_path: Path) -> None:
    assert language_counts(load_recipe("mmbert-base"), None) == (60, 110, 1833)
    assert language_counts(load_recipe("demo"), None) == (None, None, None)
    lengths = {"eng_Latn": [500] * 90, "deu_Latn": [300] * 90, "swh_Latn": [50] * 90}
    write_corpus(tmp_path, {"text": lengths}, contexts=(128, 512))
    recipe, estimate = planned(tmp_path)
    assert language_counts(recipe, None) == (2, None)
    assert language_counts(recipe, estimate.languages) == (2, 3)
    path = tmp_path / "plan.svg"
    write_plot(estimate, path)
    assert "give --data" not in _text(path.read_text(encoding="utf-8"))
    assert len(_lines(path.read_text(encoding="utf-8"))) == len(CURVES)


def test_names_are_text_not_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda snippet: "")
    recipe = small_recipe(phase(HOSTILE[:30], 90_000), phase('<i>&"', 90_000), name=HOSTILE[:30])
    drawn = chart(recipe, (1, 2))
    svg = to_svg(drawn)
    assert "<script" not in svg
    assert HOSTILE[:30] in _text(svg)
    assert '<i>&"' in _text(svg)
    page = to_html(drawn, title=recipe.name)
    assert page.count("<script>") == 2
    assert page.count("</script>") == 2


def test_long_names_are_shortened() -> None:
    recipe = small_recipe(phase("long " * 40, 90_000))
    text = _text(to_svg(chart(recipe, (1,))))
    assert "long long" in text
    assert "long " * 8 not in text


def test_the_command_prints_the_plan_and_the_path(tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    result = CliRunner().invoke(app, ["plan", "demo", "--gpus", "1", "--plot", str(path)])
    assert result.exit_code == 0, result.output
    assert "Training FLOPs per token" in result.output
    assert f"plot: {path}" in result.output
    assert ElementTree.fromstring(path.read_text(encoding="utf-8")).tag.endswith("svg")
    assert list(tmp_path.iterdir()) == [path]


def test_other_suffixes_and_missing_folders_are_refused_before_planning(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.svg or \.html"):
        _plan_with("plan.png")
    with pytest.raises(UserError, match="there is no folder"):
        _plan_with(str(tmp_path / "no" / "plan.svg"))


def _plan_with(plot: str) -> None:
    result = CliRunner().invoke(app, ["plan", "no-such-recipe", "--plot", plot])
    assert result.exception is not None
    raise result.exception


def test_the_page_works_without_a_network(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    recipe = small_recipe(phase(HOSTILE[:30], 90_000), name=HOSTILE)
    write_plot(planner.estimate(recipe, gpus=1), path)
    requests: list[str] = []
    problems: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_selector("svg .mark-line path", state="attached")
    assert page.title() == HOSTILE
    assert page.locator("svg .mark-line path").count() == len(CURVES) - 1
    assert HOSTILE[:30] in (page.text_content("svg") or "")
    page.close()
    assert requests == [path.as_uri()]
    assert problems == []


def _on(curve: Curve, tokens: int) -> float:
    """Return the height of a drawn curve at `tokens`; at a jump, the height after it."""
    for piece in curve.pieces:
        xs = [point.tokens for point in piece]
        if xs[0] <= tokens <= xs[-1]:
            right = int(np.searchsorted(xs, tokens, side="right"))
            if right == len(xs):
                return piece[-1].value
            a, b = piece[right - 1], piece[right]
            return a.value + (b.value - a.value) * (tokens - a.tokens) / (b.tokens - a.tokens)
    raise AssertionError(f"{curve.name} has no value at {tokens}")


def _data(drawn: dict[str, Any], layer: dict[str, Any]) -> list[dict[str, Any]]:
    data = layer["data"]
    found = data["values"] if "values" in data else drawn["datasets"][data["name"]]
    assert isinstance(found, list)
    return found


def _lines(svg: str) -> list[list[tuple[float, float]]]:
    """Return the vertices of the lines of an SVG, from top to bottom."""
    root = ElementTree.fromstring(svg)
    lines = []
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        if "mark-line" in group.get("class", "").split():
            for path in group:
                pairs = re.findall(r"[ML](-?[\d.e-]+),(-?[\d.e-]+)", path.get("d", ""))
                if pairs:
                    lines.append([(float(x), float(y)) for x, y in pairs])
    return lines


def _text(svg: str) -> str:
    return "\n".join(ElementTree.fromstring(svg).itertext())
