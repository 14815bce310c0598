"""A small run for tests: five languages, three phases, a few seconds on one core."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmbert.data.shards.corpus import open_corpus
from mmbert.hub.configuration import HuggingFaceModel, hugging_face_config
from mmbert.model.config import encoder_config
from mmbert.recipe import load_recipe
from mmbert.training.launcher_env import rank_info_from_env
from mmbert.training.run_config import RunOptions
from tests.support.corpora import write_corpus

RECIPE = """
name: small
seed: 3
precision: float32
model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
        local_window: 16, attention_output_dropout: 0.1}
batch: {row_tokens: 256, rows: 4, quantum: 4}
optimizer: {learning_rate: 3.0e-3, weight_decay: 1.0e-4}
checkpoint: {every_tokens: 4k, keep_last: 3}
evaluation: {documents_per_language: 3, mask_ratio: 0.15, context: 64}
logging: {every_steps: 1}
guard: {hang_minutes: 2}
phases:
  - {name: pretrain, tokens: 10k, context: 64, languages: [eng_Latn, deu_Latn], temperature: 0.7,
     mask_ratio: 0.3, rotary_bases: {global: 10000, local: 10000}, learning_rate: {warmup: 2k}}
  - {name: extension, tokens: 6k, context: 128, languages: [eng, deu, fra, swa], temperature: 0.5,
     mask_ratio: 0.15, rotary_bases: {global: 160000, local: 160000}}
  - {name: decay, tokens: 6k, context: 128, languages: all, temperature: {start: 0.5, end: 0.3},
     mask_ratio: 0.05, rotary_bases: {global: 160000, local: 160000},
     learning_rate: {shape: one_minus_sqrt, final: 0.02}}
variants:
  - {name: english, branch_from: extension, overrides: {phases.decay.languages: [eng, deu]}}
"""
STEPS = 22
"""Steps of the whole run: 10 + 6 + 6."""
SIZES = {
    "eng_Latn": (300, 200),
    "deu_Latn": (150, 200),
    "fra_Latn": (100, 100),
    "swa_Latn": (40, 100),
    "que_Latn": (25, 60),
}


def write_inputs(folder: Path) -> Path:
    """Write `folder`/shards and `folder`/recipe.yaml; return `folder`."""
    generator = random.Random(0)
    languages = {
        name: [generator.randint(5, longest) for _ in range(documents)]
        for name, (documents, longest) in SIZES.items()
    }
    write_corpus(
        folder / "shards",
        {"text": languages},
        contexts=(64, 128),
        heldout=(30, 40, 20),
        vocabulary_size=256,
    )
    vocabulary = {f"token {number}": number for number in range(256)}
    (folder / "shards" / "tokenizer" / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []})
    )
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def write_initial_checkpoint(
    folder: Path, inputs: Path, weights: dict[str, torch.Tensor], **changes: Any
) -> Path:
    """Write an initial checkpoint as `mmbert import` does, with `changes` in its config.json."""
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    corpus = open_corpus(inputs / "shards")
    recipe = load_recipe(inputs / "recipe.yaml")
    rows = len(weights["model.embeddings.tok_embeddings.weight"])
    bases = recipe.phases[-1].rotary_bases
    model = HuggingFaceModel(encoder_config(recipe.model, rows), bases, context=128)
    config = hugging_face_config(model, corpus.tokenizer.special_ids, dtype="float32")
    (folder / "config.json").write_text(json.dumps(config | changes))
    shutil.copyfile(corpus.tokenizer_folder / "tokenizer.json", folder / "tokenizer.json")
    return folder


def options_for(inputs: Path, output: Path, *overrides: str, **more: Any) -> RunOptions:
    """Return options of the small run."""
    return RunOptions(inputs / "recipe.yaml", inputs / "shards", output, overrides, **more)


def pretrain_rank(rank: int, world_size: int, options: RunOptions) -> int:
    """Train and return the exit status; a rank function for `run_ranks`."""
    import os

    from mmbert.training.main import pretrain

    return pretrain(options, rank_info_from_env(os.environ))


def log_of(run: Path) -> list[dict[str, Any]]:
    """Read all entries of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Read the events of one kind from the log."""
    return [entry for entry in log_of(run) if entry.get("event") == kind]


def warnings_of_run(folder: Path) -> list[dict[str, Any]]:
    """Return the warnings in a run's log, but for those about its recipe's few steps."""
    few = "steps; check its tokens"
    return [event for event in events(folder, "warning") if few not in event["text"]]


def step_losses(run: Path) -> dict[int, float]:
    """Read the loss of each step; the later one of a repeated step."""
    return {entry["step"]: entry["step_loss"] for entry in log_of(run) if "step_loss" in entry}
