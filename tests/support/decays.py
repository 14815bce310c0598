"""Calls of `mmbert decay` in this process, and text and models for them."""

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mmbert.cli import app
from mmbert.errors import UserError
from tests.support.tiny_run import ENVIRONMENT

LAUNCH = f"{sys.executable} -m mmbert.pretrain"
SMALL = (
    "precision=float32", "phases.decay.context=64", "batch.row_tokens=64", "batch.rows=4",
    "batch.quantum=4", "evaluation={documents_per_language: 3, context: 64}",
    "logging={every_steps: 1, loggers: []}",
    "phases.decay.learning_rate.warmup=500",
)  # fmt: skip
"""The recipe your-decay for tiny models."""
HELD_OUT = "--heldout-fraction 0.1"


@dataclass(frozen=True)
class Call:
    """Exit status and output of a call of the command."""

    status: int
    said: str


def decay(*words: str | Path, small: bool = True) -> Call:
    """Run `mmbert decay` in this process; errors are printed as `main` prints them."""
    given = ["decay", *map(str, words), "--launch", LAUNCH, *(SMALL if small else ())]
    result = CliRunner(env=ENVIRONMENT).invoke(app, given)
    if isinstance(result.exception, UserError):
        return Call(2, f"error: {result.exception}")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Call(result.exit_code, result.output)


def write_text(folder: Path, sizes: dict[str, int], words: list[str], seed: int = 0) -> Path:
    """Write documents per language, each language with twelve words of its own."""
    generator = random.Random(seed)
    for language, documents in sizes.items():
        own = generator.sample(words, 12)
        texts = [
            " ".join(generator.choices(own, k=generator.randint(10, 50))) for _ in range(documents)
        ]
        (folder / language).mkdir(parents=True)
        (folder / language / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    return folder


def with_pickled_weights(folder: Path) -> Path:
    """Replace the safetensors of a Hugging Face folder by pytorch_model.bin."""
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder
