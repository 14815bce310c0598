"""Values that users give to make reach the programs unchanged, whatever characters they hold."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT

ODD = "a 'b' \"c\" ; touch hacked `touch hacked` é\nd"
STAND_IN = f"""#!{sys.executable} -S
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


def make(folder: Path, target: str, **values: str) -> list[list[str]]:
    """Run a target in a copy of the Makefile; return the arguments of the programs it called."""
    programs, calls = folder / "programs", folder / "calls"
    programs.mkdir()
    for name in ("python", "python3", "mmbert", "deepspeed"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    done = subprocess.run(
        [
            *("make", "-o", ".venv/.installed", target, f"BIN={programs}"),
            *(f"PYTHON={programs / 'python'}", f"GPU_PYTHON={programs / 'python'}"),
            *(f"{name}={value}" for name, value in values.items()),
        ],
        cwd=folder,
        env={**os.environ, "CALLS": str(calls), "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder / "hacked").exists()
    return [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ("preprocess", ("INPUT", "OUTPUT", "TOKENIZER", "VOCAB_SIZE", "WORKERS", "RECIPE")),
        ("preprocess", ("SOURCES_IN", "OUTPUT", "RECIPE", "SOURCE")),
        ("decay", ("MODEL", "INPUT", "OUTPUT", "OLD", "STATE", "ONTO", "MERGE", "LANGUAGES")),
        ("decay", ("MODEL", "INPUT", "OUTPUT", "OLD", "TOKENS", "RECIPE", "WORKERS", "LAUNCH")),
        ("ablations", ("RECIPE", "DATA", "OUTPUT", "SEEDS")),
        ("wheels", ("DIR", "PYTHON_VERSION", "PLATFORM", "MISSING_FROM", "EXTRAS")),
        ("fault-drill", ("OUTPUT",)),
    ],
)
def test_values_are_passed_on_unchanged(
    target: str, values: tuple[str, ...], tmp_path: Path
) -> None:
    given = {name: f"{name} {ODD}" for name in values}
    (words,) = make(tmp_path, target, **given)
    assert [word for word in words if ODD in word]
    assert set(given.values()) <= set(words)


def test_the_demo_stays_in_a_folder_with_any_name(tmp_path: Path) -> None:
    place = tmp_path / "my 'demo' ; x"
    (place / "corpus").mkdir(parents=True)
    calls = make(tmp_path, "demo", DEMO=str(place))
    assert [f"{place}/corpus", f"{place}/shards"] == calls[0][2:5:2]
    assert ["export", f"{place}/run", f"{place}/model"] in calls


def test_wheels_of_a_gpu_report(tmp_path: Path) -> None:
    calls = make(tmp_path, "gpu-report", WHEELS=ODD)
    assert calls[0] == ["-m", "mmbert.wheels", "install", ODD]
