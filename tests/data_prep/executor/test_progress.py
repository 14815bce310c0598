"""Progress of all workers: a bar on a terminal, lines in a log."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from mmbert_prep.executor import progress
from mmbert_prep.executor.progress import Meter, ProgressBar


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DRAW_SECONDS", 0.02)
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.15)
    monkeypatch.setattr(progress, "_WRITE_SECONDS", 0.0)


def work(folder: Path, console: Console) -> None:
    """Two workers do half of the remaining 300 of 400 units; 100 were done before."""
    with ProgressBar(console, folder, "encode", "encoding", 400, 100):
        meters = [Meter(folder, "encode", rank) for rank in range(2)]
        for meter in meters:
            meter.add(progress=75, documents=1000, size=3_000_000, tokens=1_000_000)
        time.sleep(0.5)


def test_a_log_gets_lines_while_work_goes_on(tmp_path: Path) -> None:
    log = io.StringIO()
    work(tmp_path, Console(file=log, width=80))
    lines = log.getvalue().splitlines()
    assert 3 <= len(lines) <= 5
    form = r"encoding: 62\.5%, 2,000 documents, [\d.]+ M tokens/s, [\d.]+ MB/s, 0:00:0\d left"
    assert all(re.fullmatch(form, line) for line in lines), lines
    rate = float(lines[-1].split(", ")[2].split()[0])
    assert 2 < rate < 8  # two million tokens in about half a second


def test_the_bar_fits_a_terminal(tmp_path: Path) -> None:
    log = io.StringIO()
    work(tmp_path, Console(file=log, width=80, force_terminal=True, color_system=None))
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", log.getvalue())
    assert "…" not in shown
    form = r"encoding .* 62\.5% 2,000 documents, .* M tokens/s, .* MB/s 0:00:0\d left"
    assert re.search(form, shown)
