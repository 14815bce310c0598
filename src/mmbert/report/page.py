"""The page: one HTML file with its charts, tables, script and styles."""

import base64
import datetime
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmbert import __version__
from mmbert.errors import OutputError
from mmbert.files import atomic_write
from mmbert.report import tables
from mmbert.report.curves import bins_for
from mmbert.report.figures import Section
from mmbert.report.run import Run, read_runs
from mmbert.report.sections import all_sections
from mmbert.report.thinning import POINTS_OF_A_BIN

# Draws each chart into the element with its id. `reportViews` is for those who look into charts.
_DRAW = """
window.reportViews = {};
window.reportReady = (async () => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  for (const [id, spec] of Object.entries(specs)) {
    const options = {
      mode: "vega-lite", renderer: "canvas",
      actions: {export: true, source: false, compiled: false, editor: false},
    };
    const {view} = await vegaEmbed(document.getElementById("chart-" + id), spec, options);
    window.reportViews[id] = view;
  }
  return Object.keys(specs).length;
})();
"""


@dataclass(frozen=True)
class Report:
    """A finished page, with the warnings to print."""

    html: str
    runs: Sequence[Run]
    warnings: Sequence[str]


def write_report(folders: Sequence[Path], output: Path) -> Report:
    """Write the page of the runs in `folders` to `output`, atomically.

    Raises:
        ArgumentError: a folder is not a run's.
        OutputError: `output` cannot be written.
    """
    report = build_report(folders)
    write_html(report.html, output)
    return report


def write_html(html: str, output: Path) -> None:
    """Write a page atomically. Raises OutputError if `output` cannot be written."""
    try:
        with atomic_write(output) as file:
            # A log may have half a surrogate pair, which UTF-8 has not.
            file.write(html.encode("utf-8", errors="replace"))
    except OSError as error:
        raise OutputError(
            f"cannot write {output}: {error.strerror}", remedy="choose another --output"
        ) from error


def build_report(folders: Sequence[Path]) -> Report:
    """Return the page of the runs in `folders`."""
    runs = read_runs(folders)
    sections = all_sections(runs)
    html = render(
        "template.html.jinja",
        sections,
        title=f"Training report: {', '.join(run.label for run in runs)}",
        runs=runs,
        several=len(runs) > 1,
        overview=tables.runs_table(runs),
        not_comparable=tables.comparability(runs),
        held_out=[table for run in runs for table in tables.held_out_tables(run)],
        events=tables.events_table(runs),
        starts=[table for run in runs for table in tables.starts_tables(run)],
        differences=tables.recipe_differences(runs),
        max_points=POINTS_OF_A_BIN * bins_for(len(runs)),
        bins=bins_for(len(runs)),
    )
    warnings = [f"{run.folder}: {text}" for run in runs for text in run.missing]
    return Report(html, runs, warnings)


def render(template: str, sections: Sequence[Section], *, script: str = "", **values: Any) -> str:
    """Return the page of a template.

    Args:
        sections: whose charts the page draws.
        script: the page's own, run after the charts' scripts are read.
    """
    specs = {figure.id: figure.spec for section in sections for figure in section.figures}
    script = vega_script() + _DRAW + script
    environment = Environment(
        loader=PackageLoader("mmbert.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        sections=sections,
        version=__version__,
        written=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        specs=Markup(json_for_html(specs)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def json_for_html(value: Any) -> str:
    """Return JSON that may stand in a script element: no character of it can end the element."""
    # Everything outside ASCII, such as U+2028, is escaped by `dumps` itself.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@functools.cache
def vega_script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return re.sub("</(?=script)", r"<\\/", script, flags=re.IGNORECASE)
