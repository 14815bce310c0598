"""docs/results.md: what `mmbert plan` computes there is what it computes today."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from mmbert.cli import app
from tests.docs.blocks import blocks
from tests.docs.commands import split_commands
from tests.support.environment import ROOT

PAGE = ROOT / "docs" / "results.md"
PLANS = [
    words
    for block in blocks(PAGE)
    for words in split_commands(block.text)
    if words[:2] == ["mmbert", "plan"]
]
_ROW = re.compile(r"^\| (?P<gpus>\d+) \| [\d,]+ × \d+ \| (?P<cells>.*) \|$", re.M)


@pytest.mark.parametrize("command", PLANS, ids=shlex.join)
def test_the_plan_is_what_the_command_computes(command: list[str]) -> None:
    gpus = command[command.index("--gpus") + 1]
    rows = {match["gpus"]: match["cells"] for match in _ROW.finditer(PAGE.read_text("utf-8"))}
    memory, step, traffic, wall_time, gpu_hours = (
        cell.strip() for cell in rows.pop(gpus).split("|")
    )
    printed = CliRunner().invoke(app, command[1:], env={"COLUMNS": "250", "TERM": "dumb"}).output
    stages = [re.search(rf" 1 × {gpus} +{stage} .* ([\d.]+) +yes", printed) for stage in (1, 2, 3)]
    assert memory == ", ".join(found[1] if found else "?" for found in stages)
    assert re.search(rf"^ *pretrain +2\.3T .* {step} ", printed, re.M)
    total = re.search(r": (?P<time>[\d.]+ \w+), (?P<hours>[\d,]+) GPU-hours", printed)
    assert total is not None
    assert (wall_time, gpu_hours) == (total["time"], total["hours"])
    sent = re.search(r"^ *pretrain +([\d.]+) +([\d.]+) +[\d.]+ +[\d.]+ s +([\d.]+%)", printed, re.M)
    assert sent is not None
    assert traffic == f"{float(sent[1]) + float(sent[2]):.1f} GB, {sent[3]}"


def test_three_numbers_of_gpus_are_compared() -> None:
    assert len(PLANS) == 3
