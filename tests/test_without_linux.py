"""Preprocessing, inspection and planning run without what other systems than Linux lack."""

import subprocess
import sys
from pathlib import Path

from tests.support.environment import with_packages
from tests.support.texts import write_corpus

ROOT = Path(__file__).resolve().parents[1]
LACKING = str(ROOT / "tests/support/without_linux")
MMBERT = ("-c", "from mmbert.cli import main; main()")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python without what tests/support/without_linux removes."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=with_packages(LACKING),
        capture_output=True,
        text=True,
    )


def test_commands(tmp_path: Path) -> None:
    corpus, shards = tmp_path / "corpus", tmp_path / "shards"
    write_corpus(corpus)
    prepare = ("-m", "mmbert_prep", "--input", corpus, "--output", shards, "--workers", 2)
    commands: list[tuple[object, ...]] = [
        (*prepare, "--vocab-size", 500, "--context", 128),
        (*MMBERT, "inspect", shards),
        (*MMBERT, "plan", "demo", "--gpus", 2),
    ]
    for command in commands:
        done = run(*command)
        assert done.returncode == 0, done.stderr


def test_what_is_removed() -> None:
    """The environment lacks what it says: otherwise the tests in it would show nothing."""
    done = run(
        "-c",
        "import os\n"
        "assert not hasattr(os, 'fork') and not hasattr(os, 'sched_getaffinity')\n"
        "try:\n"
        "    import triton\n"
        "except ImportError:\n"
        "    open('/proc/self/stat')\n",
    )
    assert "removed by tests/support/without_linux" in done.stderr
