"""Rank functions of the hub tests, kept apart so that ranks do not import transformers."""

from pathlib import Path

import torch
import torch.distributed as dist

from mmbert.checkpoint.store import CheckpointStore, RunState
from mmbert.hub.configuration import read_configuration
from mmbert.model.initial_weights import load_initial_weights
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import dump_recipe, parse_recipe
from mmbert.training.engine.engine import Engine

ADAPTED_RECIPE = """
name: adapted
precision: bfloat16
model:
  hidden_size: 64
  intermediate_size: 96
  num_hidden_layers: 6
  num_attention_heads: 4
  local_window: 16
batch: {row_tokens: 512, rows: 4, quantum: 4}
optimizer: {learning_rate: 0.001}
phases:
  - name: only
    tokens: 20480
    context: 256
    languages: all
    temperature: 0.3
    mask_ratio: 0.15
    rotary_bases: {global: 30000, local: 700}
"""


def save_after_no_step(
    rank: int, world_size: int, imported: Path, runs: dict[tuple[int, int], Path]
) -> None:
    """Load imported weights into an engine per (tensor, ZeRO stage) and save it without a step."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    for (tensor, zero_stage), run in runs.items():
        recipe = parse_recipe(
            ADAPTED_RECIPE, [f"parallel={{tensor: {tensor}, zero_stage: {zero_stage}}}"]
        )
        grid = build_grid(tensor_parallel=tensor)
        config = read_configuration(imported).encoder
        model = MaskedLanguageModel(config, grid.tensor, sequence_parallel=False)
        load_initial_weights(model, imported, grid.tensor)
        engine = Engine(model, recipe, grid, torch.device("cpu"))
        state = RunState(
            step=0, tokens=0, phase="only", recipe=dump_recipe(recipe), tokenizer="tokenizer"
        )
        CheckpointStore(run / "checkpoints", asynchronous=False).save(engine, state)
        engine.close()
