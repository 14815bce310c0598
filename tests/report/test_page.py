"""The page and the command: contents, missing parts, escaping, errors."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.report.page import build_report, json_for_html, write_report
from mmbert.report.run import read_run, read_runs
from mmbert.report.tables import comparability
from tests.support.environment import ROOT, with_packages
from tests.support.logged_run import LoggedRun, lines_of, write_fingerprint

KEPT = ROOT / "tests" / "fixtures" / "kept"
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028&amp;"


class Page(HTMLParser):
    """Elements and visible texts of a page, and the content of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag == "script"

    def handle_data(self, data: str) -> None:
        (self.scripts if getattr(self, "_script", False) else self.texts).append(data)

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    @property
    def text(self) -> str:
        """All texts, with single spaces."""
        return re.sub(r"[ \n]+", " ", " ".join(self.texts))

    @property
    def specs(self) -> dict[str, Any]:
        """Specifications of the charts by id."""
        return dict(json.loads(self.scripts[0]))


def page_of(*folders: Path) -> Page:
    """Build the page of some runs."""
    return Page(build_report(folders).html)


def run_report(*arguments: str | Path) -> Any:
    """Run `mmbert report`."""
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_command_writes_one_file_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LoggedRun().write(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    result = run_report(run)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"report\.html: \d\.\d MB, 1 run\n", result.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]
    result = run_report(run, KEPT / "run-81670fd", "--output", "other.html")
    written = f"other.html: {Path('other.html').stat().st_size / 1e6:.1f} MB, 2 runs"
    assert written in result.stdout.splitlines()
    warnings = [line for line in result.output.splitlines() if line != written]
    assert len(warnings) == 2
    assert all(line.startswith(f"warning: {KEPT / 'run-81670fd'}: ") for line in warnings)


def test_a_run_of_an_earlier_version_is_shown_without_what_it_lacks() -> None:
    page = page_of(KEPT / "run")
    assert "starts in log.jsonl without recipe and versions" in page.text
    assert "no training tokens by language" in page.text
    assert "Gain by size of the language: the log has no size of languages." in page.text
    assert "Model-FLOPs utilization: not logged." in page.text
    assert not {"gain", "epochs-by-size", "mfu"} & set(page.specs)
    losses = page.specs["loss"]["datasets"]["points"]
    assert [point["step"] for point in losses] == list(range(1, 19))
    assert "18 of 18 points drawn" in page.text
    assert "5.9580 → 5.4774" in page.text  # results.json, pretrain
    assert "deu_Latn" in page.text
    assert "4.2037" in page.text  # the unigram model


def test_a_start_tells_its_machines_versions_and_changes(tmp_path: Path) -> None:
    page = page_of(LoggedRun().write(tmp_path / "run"))
    assert "2 × H100 mmbert 0.1.0, torch 2.10.0 0 1" in page.text
    assert "14 optimizer.learning_rate 0.001 0.0005" in page.text
    assert "14 versions.torch 2.10.0 2.11.0" in page.text
    assert "learning_rate: 0.001" in page.text  # recipe.yaml
    assert page.specs["gain"]["datasets"]["points"][0]["size"] == 1000


def test_ordinary_events_are_no_faults(tmp_path: Path) -> None:
    kinds = ("links", "shards copied", "checkpoint", "spike")
    events = tuple({"event": kind, "step": 5, "text": f"the {kind} event"} for kind in kinds)
    page = page_of(LoggedRun(events=events).write(tmp_path / "run"))
    assert [kind for kind in kinds if f"the {kind} event" in page.text] == ["spike"]


def test_learning_rates_of_groups_are_series_of_one_chart(tmp_path: Path) -> None:
    alone = page_of(LoggedRun().write(tmp_path / "alone")).specs["learning-rate"]["datasets"]
    assert {point["series"] for point in alone["points"]} == {"Learning rate"}
    run = LoggedRun(further={"learning_rate_matrices": 5e-4, "learning_rate_rest": 3e-3})
    page = page_of(run.write(tmp_path / "grouped"))
    points = page.specs["learning-rate"]["datasets"]["points"]
    assert {(point["series"], point["value"]) for point in points} == {
        ("Learning rate", 1e-3), ("matrices", 5e-4), ("rest", 3e-3),
    }  # fmt: skip
    assert "groups of parameters with a rate of their own" in page.text


def test_other_tokenizers_are_noted_beside_the_losses(tmp_path: Path) -> None:
    one = LoggedRun().write(tmp_path / "one")
    two = LoggedRun(name="two").write(tmp_path / "two")
    assert comparability(read_runs([one, two])) is None
    write_fingerprint(two, "b" * 64)
    report = build_report([one, two]).html
    loss, charts = report.index('<h2 id="loss">'), report.index('id="chart-loss"')
    assert loss < report.index("Losses of these runs are not comparable") < charts
    (two / "tokenizer" / "description.json").unlink()
    note = comparability(read_runs([one, two])) or ""
    assert "Of two the tokenizer is unknown" in note
    assert "not comparable" not in note


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("log.jsonl", "no log.jsonl: nothing is drawn over tokens"),
        ("results.json", "no results.json: no held-out table"),
        ("recipe.yaml", "no readable recipe.yaml"),
        ("tokenizer/description.json", "no tokenizer"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, missing: str, said: str) -> None:
    run = LoggedRun().write(tmp_path / "run")
    assert read_run(run, "run").missing == ()
    (run / missing).unlink()
    assert said in "".join(read_run(run, "run").missing)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "log.jsonl is empty"),
        (b'{"step', "has no record of a step yet"),
        (b'{"event": "start", "step": 0}\n', "has no record of a step yet"),
        (lines_of([{"step": 1, "tokens": 9, "loss": 1.5}]) + b"{", "last line of log.jsonl is inc"),
        (b"x\n" * 7, "7 unreadable lines of log.jsonl left out (line 1, 2, 3, 4, 5, …)"),
    ],
)
def test_a_damaged_log_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    run = LoggedRun().write(tmp_path / "run")
    (run / "log.jsonl").write_bytes(content)
    assert said in "".join(read_run(run, "run").missing)


def test_damaged_and_missing_parts_are_no_reason_to_fail(tmp_path: Path) -> None:
    runs = [LoggedRun().write(tmp_path / name) for name in ("whole", "damaged", "begun")]
    (runs[1] / "results.json").write_text('{"name": ')
    (runs[1] / "recipe.yaml").write_text("[1, 2")
    (runs[1] / "log.jsonl").write_bytes(b"")
    (runs[2] / "log.jsonl").write_bytes(lines_of([{"step": 1, "tokens": 9, "loss": 1.5}]))
    report = build_report(runs)
    assert any("unreadable results.json" in warning for warning in report.warnings)
    assert all(warning.partition(": ")[2] in Page(report.html).text for warning in report.warnings)
    for run in runs[1:]:
        build_report([run])


def test_a_log_alone_is_a_run_and_gives_the_phases(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").write_bytes(lines_of(list(LoggedRun().entries())))
    bands = page_of(run).specs["loss"]["datasets"]["phases"]
    assert [(band["phase"], band["begin"], band["end"]) for band in bands] == [
        ("pretrain", 0, 10240), ("extension", 10240, 20480), ("decay", 20480, 30720),
    ]  # fmt: skip


def test_what_is_no_run_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("nowhere", "does not exist"), ("file", "is not a folder"), ("empty", "nothing of a run"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said) as raised:
            build_report([LoggedRun().write(tmp_path / f"run-{name}"), tmp_path / name])
        assert str(tmp_path / name) in raised.value.message
        assert "--output folder of a training run" in raised.value.remedy


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = LoggedRun().write(tmp_path / "run")
    for output in (tmp_path / "nowhere" / "report.html", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_report([run], output)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_runs_of_one_name_go_by_their_paths_and_a_run_counts_once(tmp_path: Path) -> None:
    runs = [LoggedRun(seed=at).write(tmp_path / f"{at}" / "run") for at in range(2)]
    read = read_runs([*runs, tmp_path / "0" / ".." / "0" / "run"])
    assert [run.label for run in read] == [str(run) for run in runs]


def test_nothing_is_loaded_and_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    page = page_of(LoggedRun().write(tmp_path / "run"))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "$schema" not in page.scripts[0]
    assert "http" not in page.scripts[0]


def hostile_run(folder: Path, text: str = HOSTILE) -> Path:
    """Write a run whose names and texts are all `text`."""
    run = LoggedRun(
        name=text,
        phases=(f"a{text}", f"b{text}"),
        languages=("eng_Latn", f"l{text}"),
        events=({"event": f"kind{text}", "step": 5, "text": f"event{text}"},),
    )
    run.write(folder)
    log = (folder / "log.jsonl").read_text().replace('"data"', json.dumps(f"part{text}"))
    (folder / "log.jsonl").write_text(log.replace("H100", json.dumps(f"device{text}")[1:-1]))
    return folder


def test_every_text_is_shown_as_text(tmp_path: Path) -> None:
    report = build_report(
        [hostile_run(tmp_path / "<img src=x onerror=alert(1)>"), LoggedRun().write(tmp_path / "b")]
    )
    page = Page(report.html)
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "nav", "a",
        "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "figure",
        "figcaption", "noscript", "script",
    }  # fmt: skip
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    texts = "".join(page.texts)
    for shown in ("a", "l", "kind", "event", "device", ""):  # phase, language, …, recipe's name
        assert f"{shown}{HOSTILE}" in texts
    assert "<img src=x onerror=alert(1)>: " in texts
    # In the script element, too, nothing but JSON.
    assert not re.search("[<>&\u2028\u2029]", page.scripts[0])
    assert page.specs["time-2"]["datasets"]["points"][0]["series"] == f"part{HOSTILE}"


def test_json_in_html_reads_back() -> None:
    value = {"<&>\u2028\u2029": ["</script>", "ü", "\ud800", 1.5, None]}
    assert json.loads(json_for_html(value)) == value
    with pytest.raises(ValueError, match="Out of range"):
        json_for_html(float("nan"))


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", "\ud800")
    write_report([run], tmp_path / "report.html")
    assert "event?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_torch_and_no_deepspeed_are_needed() -> None:
    code = "import sys, mmbert.report.page; print(*{'torch', 'deepspeed'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=with_packages(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
