"""A tiny run from text to checkpoint, started as a user would: inputs, commands, results."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tests.support.environment import ON_A_CPU, ROOT, with_packages

PRETRAIN = ROOT / "launch" / "pretrain.py"
PREPROCESS = ROOT / "launch" / "preprocess.py"

RECIPE = """
name: tiny
seed: 3
precision: float32
model:
  hidden_size: 32
  intermediate_size: 48
  num_hidden_layers: 4
  num_attention_heads: 2
tokenizer: {vocab_size: 800}
data: {sources: [{name: text, sampling: temperature}]}
batch: {row_tokens: 256, rows: 4, quantum: 4}
optimizer: {name: stable_adamw, learning_rate: 1.0e-3}
checkpoint: {keep_last: 2}
evaluation: {documents_per_language: 4, context: 64}
logging: {every_steps: 1}
phases:
  - name: pretrain
    tokens: 20k
    context: 64
    languages: {minimum_bytes: 40k}
    temperature: 0.7
    mask_ratio: 0.3
    rotary_bases: {global: 10000, local: 10000}
  - name: extension
    tokens: 20k
    context: 128
    languages: all
    temperature: 0.5
    mask_ratio: 0.15
    rotary_bases: {global: 160000, local: 160000}
"""

# What a training process of a test may use: one core, no compiler, CPU.
ENVIRONMENT = {
    **with_packages(),
    **ON_A_CPU,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}
for _name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    ENVIRONMENT.pop(_name, None)

_LANGUAGES = {"eng_Latn": 300, "deu_Latn": 150, "ell_Grek": 80, "swh_Latn": 40}


def write_text(folder: Path, scale: int = 1) -> None:
    """Write a folder per language, each with `scale` files of documents of random words."""
    for number, (language, documents) in enumerate(_LANGUAGES.items()):
        generator = random.Random(number)
        letters = "αβγδεζηικλμνοπρστυ" if language.endswith("Grek") else "abdefghiklmnoprstu"
        words = ["".join(generator.choices(letters, k=generator.randint(2, 8))) for _ in range(300)]
        (folder / language).mkdir(parents=True)
        for file in range(scale):
            texts = [
                " ".join(generator.choices(words, k=generator.randint(20, 120))) + "."
                for _ in range(documents)
            ]
            (folder / language / f"{file}.txt").write_text("\n\n".join(texts), encoding="utf-8")


def run(
    *command: str | Path, timeout: float = 120, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`; its stdout includes standard error."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**ENVIRONMENT, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def make_inputs(folder: Path) -> None:
    """Write `folder`/recipe.yaml and `folder`/text, and the shards of it to `folder`/shards."""
    write_text(folder / "text")
    (folder / "recipe.yaml").write_text(RECIPE)
    result = run(
        *(sys.executable, PREPROCESS, "--input", folder / "text", "--output", folder / "shards"),
        *("--recipe", folder / "recipe.yaml", "--workers", "1"),
    )
    assert result.returncode == 0, result.stdout


def losses_and_norms(run_folder: Path) -> dict[int, tuple[float, float]]:
    """Read the exact loss and gradient norm of every step from a run's log."""
    found = {}
    for line in (run_folder / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "gradient_norm" in record:
            found[record["step"]] = (record["step_loss"], record["gradient_norm"])
    return found


def weights(run_folder: Path) -> dict[str, bytes]:
    """Read the tensor files of a run's newest checkpoint."""
    newest = max((run_folder / "checkpoints").glob("step-*"))
    return {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}


def tree(folder: Path) -> dict[str, bytes]:
    """Read every file in a folder of shards except working files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".preprocess" not in path.parts
    }
