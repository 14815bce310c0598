"""Fixtures: a folder with a recipe and a text, and programs that answer like Slurm's."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_lines import Outcome, call
from tests.support.tiny_run import RECIPE

ODD = 'it\'s "an"\n$(folder)'
VARIANTS = """
variants:
  - {name: warmer, branch_from: pretrain, overrides: {phases.extension.temperature: 0.9}}
  - {name: old masks, branch_from: pretrain, overrides: {phases.extension.mask_ratio: 0.3}}
merge: {method: linear, variants: [main, warmer, old masks]}
"""
_ANSWERS = {
    # Gives numbers from 101 and appends its arguments to the file calls.
    "sbatch": """printf '%s\\0' sbatch "$@" >> calls; printf '\\n\\0' >> calls
for word in "$@"; do
[[ $word != --partition=none ]] || { echo 'sbatch: error: invalid partition specified: none' >&2
exit 1; }; done
number=$(( $(cat number 2>/dev/null || echo 100) + 1 )); echo $number > number
echo "$number;c1" """,
    "squeue": "cat queue 2>/dev/null || true",
    "sacct": "cat accounting 2>/dev/null || true",
    "scancel": "printf '%s\\0' scancel \"$@\" >> calls; printf '\\n\\0' >> calls",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with recipe.yaml and text/, in a folder of an odd name."""
    folder = tmp_path / ODD
    (folder / "text").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE + VARIANTS)
    monkeypatch.chdir(folder)
    for name in ("MMBERT_SITE", "MMBERT_SCRIPTS", "MMBERT_VENV"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def slurm(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Put programs like Slurm's on PATH; return what reads the calls of sbatch and scancel."""
    programs = place.parent / "programs"
    programs.mkdir()
    for name, body in _ANSWERS.items():
        (programs / name).write_text(f"#!/bin/bash\ncd {str(programs)!r}\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(programs))

    def calls() -> list[list[str]]:
        path = programs / "calls"
        text = path.read_text() if path.exists() else ""
        return [one.split("\0")[:-1] for one in text.split("\n\0") if one]

    return calls


def submit(*words: str) -> Outcome:
    """Call `mmbert submit` in this process."""
    return call("mmbert submit", words, MMBERT_VENV=sys.prefix)


def status(*words: str) -> Outcome:
    """Call `mmbert status` in this process."""
    return call("mmbert status", words)
