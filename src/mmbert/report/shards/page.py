"""The page of a folder of shards: charts, tables, and documents of every language."""

from dataclasses import dataclass
from pathlib import Path

from mmbert.report.figures import Section
from mmbert.report.page import render, write_html
from mmbert.report.shards import tables
from mmbert.report.shards.charts import add_charts
from mmbert.report.shards.contents import ShardsContents, read_contents
from mmbert.report.shards.identification import (
    DOCUMENTS,
    Identification,
    identify_languages,
)
from mmbert.report.shards.identifiers import open_identifier
from mmbert.report.shards.samples import SAMPLED_DOCUMENTS, SHOWN_CHARACTERS, Sampler

# Shows the languages whose text has all words of the search box.
_SEARCH = """
(() => {
  const box = document.getElementById("search"), found = document.getElementById("found");
  const languages = [...document.querySelectorAll("#list > details")];
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(" ").filter(Boolean);
    let count = 0;
    for (const language of languages) {
      language.hidden = !words.every(word => language.dataset.find.includes(word));
      count += !language.hidden;
    }
    found.textContent = count.toLocaleString("en");
  });
})();
"""


@dataclass(frozen=True)
class ShardsReport:
    """A finished page, with what it shows and the warnings to print."""

    html: str
    contents: ShardsContents
    identification: Identification | None
    warnings: list[str]


def write_shards_report(folder: Path, output: Path, identify: str | None = None) -> ShardsReport:
    """Write the page of the shards in `folder` to `output`, atomically.

    Args:
        identify: "bundled" or the path of a fastText model, to check the languages of a sample.

    Raises:
        ShardsError: no language is finished, or a file is damaged.
        PackageError: the library that identifies languages is not installed.
        OutputError: `output` cannot be written.
    """
    report = build_shards_report(folder, identify)
    write_html(report.html, output)
    return report


def build_shards_report(folder: Path, identify: str | None = None) -> ShardsReport:
    """Return the page of the shards in `folder`; see `write_shards_report`."""
    identifier = open_identifier(identify) if identify is not None else None
    contents = read_contents(folder)
    sampler = Sampler(contents.corpus)
    missing = list(contents.missing)
    if not sampler.available:
        missing.append("no tokenizer/tokenizer.json: no documents are shown or identified")
    found = None
    if identifier is not None and sampler.available:
        found = identify_languages(contents, sampler, identifier)
    scripts, lengths = Section("scripts", "Scripts"), Section("lengths", "Lengths")
    rejected = Section("rejected", "Rejected")
    add_charts(contents, scripts, lengths, rejected)
    damaged = tables.damaged_table(contents)
    html = render(
        "shards.html.jinja",
        [scripts, lengths, rejected],
        script=_SEARCH,
        title=f"Data report: {folder.resolve().name}",
        overview=tables.sources_table(contents),
        missing=missing,
        tables={
            "scripts": [tables.scripts_table(contents)],
            "lengths": [],
            "rejected": [tables.rejected_table(contents), *([damaged] if damaged else [])],
        },
        identification=found,
        identified_documents=DOCUMENTS,
        identification_tables=tables.identification_tables(found) if found else [],
        languages=tables.listed_languages(contents, sampler),
        columns=tables.LISTED_COLUMNS,
        sampled_documents=SAMPLED_DOCUMENTS,
        shown_characters=SHOWN_CHARACTERS,
    )
    return ShardsReport(html, contents, found, [f"{folder}: {text}" for text in missing])
