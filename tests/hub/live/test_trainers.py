"""Trainings by the real trainers give packed what they give unpacked, and save plain models."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import ROOT, with_packages
from tests.support.tokenizers import SENTENCES
from tests.support.trainer_packages import trainer_packages
from tests.support.trainings import TRAININGS

pytestmark = pytest.mark.long

FIRST_LOSS = 1e-6
"""Largest relative difference before the first step."""
LATER = 2e-5
"""After it; AdamW makes a whole step of the rounding in small gradients."""
HALF = 1e-2
"""In bfloat16, where both round, at every step."""


@pytest.fixture(scope="module")
def trained(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of all trainings, unpacked and packed, in one process."""
    folder = tmp_path_factory.mktemp("trainings")
    words = [word for sentence in SENTENCES[:8] for word in sentence.split()]
    drawn = random.Random(0)

    def text() -> str:
        return " ".join(drawn.choices(words, k=drawn.choice([1, 2, 3, 5, 8, 20])))

    lines = [json.dumps({"anchor": text(), "positive": text()}) for _ in range(64)]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.trainings", exported, folder / "pairs.jsonl"],
        env=with_packages(trainer_packages(), ROOT, HF_HOME=str(folder / "hub")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=500,
    )
    assert finished.returncode == 0, finished.stdout
    assert "goes the unpacked way" not in finished.stdout
    found: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return found


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference of two rows or tables, relative to the largest entry."""
    if isinstance(found, float):
        return abs(found - expected) / abs(expected)
    found, expected = ([n for row in table for n in row] for table in (found, expected))
    largest = max(map(abs, expected))
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / largest


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TRAININGS)
def test_losses_and_trained_models(trained: dict[str, Any], name: str) -> None:
    training = TRAININGS[name]
    unpacked, packed = trained[name]
    losses = list(zip(packed["losses"], unpacked["losses"], strict=True))
    assert len(losses) == training.steps * training.accumulate
    differences = [difference(*pair) for pair in losses]
    print(
        name, *(f"{loss:.4f} ({d:.0e})" for (_, loss), d in zip(losses, differences, strict=True))
    )
    later = HALF if training.bf16 else LATER
    assert max(differences[: training.accumulate]) <= (HALF if training.bf16 else FIRST_LOSS)
    assert max(differences) <= later
    assert difference(packed["outputs"], unpacked["outputs"]) <= later
    if unpacked["evaluated"]:
        assert difference(packed["evaluated"], unpacked["evaluated"]) <= later
    first, last = unpacked["losses"][0], unpacked["losses"][-1]
    assert last != first  # it trains


@pytest.mark.parametrize("name", TRAININGS)
def test_it_was_packed_and_the_saved_folder_is_plain(trained: dict[str, Any], name: str) -> None:
    unpacked, packed = trained[name]
    assert (unpacked["computed"], unpacked["detours"], packed["detours"]) == (0, [], [])
    assert packed["computed"] > 0
    tolerance = HALF if TRAININGS[name].bf16 else 2e-6
    assert difference(packed["outputs"], packed["saved"]) <= tolerance
