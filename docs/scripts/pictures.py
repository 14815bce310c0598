"""Pictures of the documentation (docs/pictures/*.svg), each drawn by its module."""

import altair as alt

from docs.scripts import picture_architecture, picture_studies, picture_system, picture_tokens
from docs.scripts.drawing import to_svg
from mmbert.planner.curves import language_counts
from mmbert.planner.plot import chart as plan_chart
from mmbert.recipe import load_recipe


def render() -> dict[str, str]:
    """Return the SVG of each picture by file name."""
    base = load_recipe("mmbert-base")
    charts: dict[str, alt.TopLevelMixin] = {
        "architecture": picture_architecture.chart(),
        "plan-mmbert-base": plan_chart(base, language_counts(base, None)),
        "studies": picture_studies.chart(),
        "system": picture_system.chart(),
        "token-path": picture_tokens.chart(),
    }
    return {f"{name}.svg": to_svg(chart) for name, chart in charts.items()}
