"""Text, recipe and shards of the small run of a drill."""

import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import OutputError

_RECIPE = """\
name: fault-drill
seed: 3
deterministic: true
precision: float32
model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2}
tokenizer: {vocab_size: 800}
batch: {row_tokens: 256, rows: 4, quantum: 4}
optimizer: {name: stable_adamw, learning_rate: 1.0e-3}
checkpoint: {every_tokens: 4k, keep_last: 3}
evaluation: {documents_per_language: 4, context: 64}
logging: {every_steps: 1, loggers: []}
guard: {hang_minutes: 5}
phases:
  - {name: pretrain, tokens: 14k, context: 64, languages: all, temperature: 0.7,
     mask_ratio: 0.3, rotary_bases: {global: 10000, local: 10000}}
  - {name: extension, tokens: 10k, context: 128, languages: all, temperature: 0.5,
     mask_ratio: 0.15, rotary_bases: {global: 160000, local: 160000}}
"""
_DOCUMENTS = {"eng_Latn": 200, "ell_Grek": 100}
_LETTERS = {"eng_Latn": "abdefghiklmnoprstu", "ell_Grek": "αβγδεζηικλμνοπρστυ"}


@dataclass(frozen=True)
class Inputs:
    """What a training command needs."""

    recipe: Path
    shards: Path


def make_inputs(folder: Path, environment: Mapping[str, str]) -> Inputs:
    """Write random text and the recipe below `folder`, and make the shards.

    Raises:
        OutputError: the preprocessing failed.
    """
    inputs = Inputs(folder / "recipe.yaml", folder / "shards")
    folder.mkdir()
    inputs.recipe.write_text(_RECIPE, encoding="utf-8")
    for language, count in _DOCUMENTS.items():
        _write_text(folder / "text" / language, _LETTERS[language], count)
    with (folder / "preprocessing.log").open("wb") as log:
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "mmbert_prep", "--input", str(folder / "text")),
                *("--output", str(inputs.shards), "--recipe", str(inputs.recipe)),
                *("--workers", "1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
    if done.returncode:
        raise OutputError(
            f"the preprocessing of the drill failed with exit status {done.returncode}; its output "
            f"is in {folder / 'preprocessing.log'}",
            remedy="fix the cause that it names; `mmbert doctor` checks the installation",
        )
    return inputs


def _write_text(folder: Path, letters: str, documents: int) -> None:
    generator = random.Random(letters)
    words = ["".join(generator.choices(letters, k=generator.randint(2, 8))) for _ in range(300)]
    folder.mkdir(parents=True)
    texts = [
        " ".join(generator.choices(words, k=generator.randint(20, 120))) + "."
        for _ in range(documents)
    ]
    (folder / "0.txt").write_text("\n\n".join(texts), encoding="utf-8")
