"""The page of all commands is current and shows what the programs accept."""

import pytest
from typer.testing import CliRunner

from docs.scripts.commands import render
from mmbert.cli.app import app
from tests.support.environment import ROOT

PAGE = ROOT / "docs" / "commands.md"


@pytest.mark.parametrize("columns", ["40", "300"])
def test_page_is_current_at_any_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERMINAL_WIDTH", columns)
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m docs.scripts`"


def test_hidden_options_stay_hidden() -> None:
    page = render()
    for hidden in ("utilisation", "initialisation", "local_rank", "heldout-share"):
        assert hidden not in page


@pytest.mark.parametrize("command", ["plan", "merge", "inspect", "recipes"])
def test_section_has_every_name_of_the_help(command: str) -> None:
    section = render().partition(f"### `mmbert {command}`\n")[2].partition("\n### ")[0]
    printed = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    names = {word for word in printed.output.split() if word.startswith("--")} - {"--help"}
    assert names or command == "recipes"
    for name in names:
        assert name in section


def test_examples_ranges_and_defaults_are_shown() -> None:
    page = render()
    for expected in (
        "| `--gpus INTEGER` | `8` | Number of GPUs. From 1 to 1000000. |",
        "| `--weight NUMBER ...` | equal | Weight of each model, in order. Repeatable. |",
        "| `--tokenizer-sample BYTES` | `64M` | Text that the tokenizer is trained on. |",
        "Usage: `mmbert export [OPTIONS] CHECKPOINT OUT`",
        "mmbert inspect my_run --step 1200 --data my_shards\n",
        "    --output shards --tokenizer gemma2/tokenizer.model\n",
    ):
        assert expected in page, expected
