"""Trainings by the real trainers give packed what they give unpacked, and save plain models."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.environment import ROOT, with_packages
from tests.support.tokenizers import SENTENCES
from tests.support.trainer_packages import trainer_packages
from tests.support.trainings import TRAININGS

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

FIRST_LOSS = 1e-6
"""Largest relative difference before the first step."""
LATER = 5e-5
"""After it; AdamW makes a whole step of the rounding in small gradients."""
HALF = 2e-2
"""In bfloat16, where both round, at every step."""


def trained(model: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what comes out of all trainings, unpacked and packed, in one process."""
    words = [word for sentence in SENTENCES[:8] for word in sentence.split()]
    drawn = random.Random(0)

    def text() -> str:
        return " ".join(drawn.choices(words, k=drawn.choice([1, 2, 3, 5, 8, 20])))

    lines = [json.dumps({"anchor": text(), "positive": text()}) for _ in range(64)]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.trainings", model, folder / "pairs.jsonl"],
        env=with_packages(*trainer_packages(), ROOT, HF_HOME=str(folder / "hub")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=500,
    )
    assert finished.returncode == 0, finished.stdout
    assert "goes the unpacked way" not in finished.stdout
    found: dict[str, list[dict[str, Any]]] = json.loads(finished.stdout.strip().splitlines()[-1])
    return found


def difference(found: list[list[float]], expected: list[list[float]]) -> float:
    """Return the largest difference of two tables, relative to the largest entry."""
    ours, theirs = torch.tensor(found).double(), torch.tensor(expected).double()
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_same_training(name: str, unpacked: dict[str, Any], packed: dict[str, Any]) -> None:
    training = TRAININGS[name]
    losses = list(zip(unpacked["losses"], packed["losses"], strict=True))
    assert len(losses) == training.steps * training.accumulate, name
    differences = [abs(ours - theirs) / theirs for theirs, ours in losses]
    for (theirs, ours), relative in zip(losses, differences, strict=True):
        print(f"{name}: loss {theirs:.6f} unpacked, {ours:.6f} packed, {relative:.0e} relative")
    first, later = (HALF, HALF) if training.bf16 else (FIRST_LOSS, LATER)
    assert all(relative <= first for relative in differences[: training.accumulate]), name
    assert all(relative <= later for relative in differences), name
    assert difference(packed["outputs"], unpacked["outputs"]) <= later, name
    assert abs(packed["evaluated"] - unpacked["evaluated"]) <= later * unpacked["evaluated"], name


def assert_packed_and_saved_plain(
    name: str, unpacked: dict[str, Any], packed: dict[str, Any]
) -> None:
    assert (unpacked["computed"], unpacked["detours"], packed["detours"]) == (0, [], []), name
    assert packed["computed"] > 0, name
    # A model that trained under autocast keeps it, its folder does not.
    tolerance = HALF if TRAININGS[name].bf16 else 2e-6
    assert difference(packed["outputs"], packed["saved"]) <= tolerance, name


def test_losses_and_trained_models(exported: Path, tmp_path: Path) -> None:
    """One test for all: more would train again in each worker."""
    found = trained(exported, tmp_path)
    assert list(found) == list(TRAININGS)
    for name, both in found.items():
        assert_same_training(name, *both)
        assert_packed_and_saved_plain(name, *both)
