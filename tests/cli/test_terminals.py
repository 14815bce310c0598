"""Commands on terminals that are narrow, without colors or of another encoding, and on none.

Whatever the terminal: no traceback, every figure, and paths as they are.
"""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.command_line.console import PlainConsole
from mmbert.command_line.tables import WholeTable
from mmbert.training.metrics.loggers.base_logger import RunInfo
from mmbert.training.metrics.loggers.console_logger import ConsoleLogger
from mmbert.training.metrics.results import Results
from tests.support.command_lines import CALLS, KEPT, Outcome, call, words_of, write_inputs
from tests.support.environment import ROOT

ODD = "a  [red] b:dog:[x é"
"""Folder of all inputs: markup, emoji, two blanks, and a letter that ASCII lacks."""
FILES = {"recipe.yaml", "shards", "run", "model", "corpus", "out", "out.html"}
ESCAPED = ODD.encode("ascii", "backslashreplace").decode()
CASES = {
    **CALLS,
    "mmbert inspect run": {"path": ["run"]},
    "mmbert inspect checkpoint": {"path": ["run/checkpoints/step-00000018"]},
    "mmbert inspect document": {"path": ["shards"], "language": ["ell_Grek"], "document": ["0"]},
    "mmbert inspect nothing": {"path": ["missing"]},
    "mmbert plan shards": {"recipe": ["recipe.yaml"], "gpus": ["1"], "data": ["shards"]},
    "mmbert report shards": {"folders": ["shards"], "output": ["out.html"]},
    "prep run": {name: value for name, value in CALLS["prep"].items() if name != "dry_run"},
}
SLOW = {
    "mmbert ablate", "mmbert decay", "mmbert fill-mask",
    "mmbert evaluate", "mmbert export", "mmbert import",
    "mmbert merge", "mmbert report", "mmbert report shards", "mmbert doctor", "prep run",
}  # fmt: skip
NAMES_PATHS = {
    "mmbert export", "mmbert import", "mmbert merge", "mmbert report", "mmbert results",
    "mmbert slurm-scripts", "mmbert decay", "mmbert inspect checkpoint", "mmbert inspect nothing",
    "prep run",
}  # fmt: skip
PACKAGES = ("src", "data_prep", "kernels")
NARROW = {"COLUMNS": "40", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("terminals")
    (place / ODD).mkdir()
    write_inputs(place / ODD)
    return place


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _call(case: str, encoding: str, **variables: str) -> Outcome:
    for made in ("out", "out.html"):
        path = Path(ODD, made)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    command = " ".join(case.split()[: 2 if case.startswith("mmbert") else 1])
    named = {
        name: [f"{ODD}/{one}" if one.split("/")[0] in {*FILES, "missing"} else one for one in given]
        for name, given in CASES[case].items()
    }
    return call(command, words_of(command, named), encoding, **variables)


def _figures(outcome: Outcome) -> Counter[str]:
    # Escapes of characters are no figures.
    text = re.sub(
        r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}", " ", outcome.stdout + outcome.stderr
    )
    return Counter(re.findall(r"\d[\d,.]*\d|\d", text))


def _check(case: str, encoding: str) -> None:
    wide = _call(case, "utf-8", COLUMNS="1000")
    narrow = _call(case, encoding, **NARROW)
    expected = 2 if case in {"mmbert inspect nothing", "mmbert fault-drill"} else 0
    for outcome in (wide, narrow):
        assert not outcome.traceback, outcome.traceback
        assert outcome.status == expected, outcome
    assert _figures(narrow) == _figures(wide)
    said = [outcome.stdout + outcome.stderr for outcome in (wide, narrow)]
    shown = ODD if encoding != "ascii" else ESCAPED
    assert said[0].count(ODD) == said[1].count(shown)
    # Each mention of the folder is whole.
    assert said[0].count("[red]") == said[0].count(ODD)
    if case in NAMES_PATHS:
        assert ODD in said[0]
    assert "\x1b" not in said[1]


@pytest.mark.parametrize("case", sorted(CASES.keys() - SLOW))
def test_a_narrow_terminal_of_ascii_shows_all(case: str) -> None:
    _check(case, "ascii")


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_a_narrow_terminal_of_any_encoding_shows_all(case: str, encoding: str) -> None:
    _check(case, encoding)


WORDS = st.text("0123456789abc,.[]:", min_size=1, max_size=12)
CELLS = st.lists(WORDS, max_size=3).map(" ".join)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=4), st.integers(1, 120))
def test_a_table_of_any_width_has_every_word(rows: list[tuple[str, str, str]], width: int) -> None:
    table = WholeTable("name", "many", "more", box=None)
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(*row)
    stream = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": str(width)}), redirect_stdout(stream):
        PlainConsole().print(table)
    words = Counter(word for row in rows for cell in row for word in cell.split())
    assert words <= Counter(stream.getvalue().split())


@pytest.fixture
def unread() -> Iterator[int]:
    """Return the end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def _run(*words: str, stdout: int, closed: bool = False, **variables: str) -> tuple[int, str]:
    command = [sys.executable, "-c", "from mmbert.cli import main; main()", *words]
    if closed:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, env=os.environ | variables, check=False
    )
    return done.returncode, done.stderr.decode()


def test_output_that_nobody_reads_is_no_traceback(unread: int) -> None:
    assert _run("recipes", stdout=unread) == (1, "")


def test_closed_output_is_no_error() -> None:
    assert _run("recipes", stdout=subprocess.DEVNULL, closed=True) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_output_on_a_full_disk_is_one_message() -> None:
    with open("/dev/full", "wb") as full:
        status, said = _run("recipes", stdout=full.fileno())
    assert status == 2
    assert said.startswith("error: the output cannot be written: No space left on device\n  → ")


def test_training_goes_on_when_nobody_reads_its_output(
    unread: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    stream = os.fdopen(unread, "w", encoding="utf-8", closefd=False)
    monkeypatch.setattr(sys, "stdout", stream)
    logger = ConsoleLogger(RunInfo(folder, "run", first_step=0, steps=9))
    for _ in range(3):
        logger.message("a line")
    logger.close()
    stream.close()
    assert capsys.readouterr().err.count("the output is closed; training goes on") == 1


def test_results_are_read_in_any_locale(folder: Path) -> None:
    # They hold arrows, as of a temperature that falls.
    code = (
        "import pathlib, sys; from mmbert.training.metrics.results import Results; "
        "print(Results.read(pathlib.Path(sys.argv[1])).model_dump_json().isascii())"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code, str(KEPT / "run")],
        capture_output=True,
        env=os.environ | plain,
        check=True,
    )
    assert found.stdout == b"False\n"
    assert Results.read(KEPT / "run") is not None


def test_every_text_file_is_opened_with_its_encoding() -> None:
    found = []
    for path in sorted(path for root in PACKAGES for path in (ROOT / root).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _takes_the_locale(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def _takes_the_locale(node: ast.Call) -> bool:
    """Return whether a call opens text in the encoding of the locale."""
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    given = {keyword.arg for keyword in node.keywords}
    if "encoding" in given:
        return False
    if name in ("run", "Popen", "check_output"):
        return bool(given & {"text", "universal_newlines"})
    if name in ("read_text", "write_text"):
        return len(node.args) < (1 if name == "read_text" else 2)
    mode = {str(one.value) for one in node.args if isinstance(one, ast.Constant)}
    return name == "open" and bool(mode & {"r", "w", "a", "x", "r+", "w+", "rt", "wt"})
