"""Blocks marked `run` work: those of a page run in order, in a folder of their own."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks, pages
from tests.support.environment import ROOT
from tests.support.tiny_run import ENVIRONMENT

# What a user's commands find in the clone.
CLONE = ("Makefile", "launch", "slurm", "src", "kernels", "data_prep", "setup.py", ".venv", "tests")
# Without it, make would install again whenever setup.py is newer than the environment.
PRELUDE = 'set -euo pipefail\nmake() { command make -o .venv/.installed "$@"; }\n'


def _blocks(page: Path, *, long: bool) -> list[Block]:
    return [b for b in blocks(page) if b.kind == "run" and (long or b.detail != "long")]


def _run(page: Path, folder: Path, *, long: bool) -> None:
    for name in CLONE:
        (folder / name).symlink_to(ROOT / name)
    parts = [f"echo '== {block}'\n{block.text}" for block in _blocks(page, long=long)]
    result = subprocess.run(
        ["bash", "-c", PRELUDE + "\n".join(parts)],
        cwd=folder,
        env={**ENVIRONMENT, "COLUMNS": "140"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
    )
    assert result.returncode == 0, result.stdout


SHORT = [page for page in pages() if _blocks(page, long=False)]
LONG = [page for page in pages() if len(_blocks(page, long=True)) > len(_blocks(page, long=False))]


@pytest.mark.parametrize("page", SHORT, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path) -> None:
    _run(page, tmp_path, long=False)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", LONG, ids=lambda page: page.name)
def test_the_longer_commands_of_a_page_work(page: Path, tmp_path: Path) -> None:
    _run(page, tmp_path, long=True)
