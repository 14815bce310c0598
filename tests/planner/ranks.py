"""Rank functions of the planner's tests."""

import gc
import warnings

import torch
import torch.distributed as dist

from mmbert.model.batch import PackedBatch
from mmbert.model.config import encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.grid import build_grid
from mmbert.recipe import parse_recipe
from mmbert.training.engine import Engine

RECIPE = """
name: memory
precision: bfloat16
model: {hidden_size: 192, intermediate_size: 288, num_hidden_layers: 4, num_attention_heads: 3}
batch: {row_tokens: 64, rows: 4, quantum: 4}
optimizer: {learning_rate: 0.001}
phases:
  - name: only
    tokens: 20480
    context: 64
    languages: all
    temperature: 0.3
    mask_ratio: 0.15
    rotary_bases: {global: 10000, local: 10000}
"""
VOCABULARY = 9001


def live_bytes() -> int:
    """Bytes of all storages that live tensors refer to, each once."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated objects that merely are looked at
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer)


def bytes_after_backward(
    rank: int, world_size: int, zero_stages: tuple[int, ...]
) -> dict[int, int]:
    """{ZeRO stage: bytes that an engine holds after the backward passes of its second step}."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    found = {}
    for zero_stage in zero_stages:
        recipe = parse_recipe(RECIPE, [f"parallel.zero_stage={zero_stage}"])
        before = live_bytes()
        grid = build_grid()
        model = MaskedLanguageModel(
            encoder_config(recipe.model, VOCABULARY), grid.tensor, sequence_parallel=False
        )
        initialize_parameters(model, 0)
        engine = Engine(model, recipe, grid, torch.device("cpu"))
        del model
        bases = recipe.phases[0].rotary_bases
        for step in range(2):
            for _ in range(2):
                engine.forward_backward(
                    small_row(), rotary_bases=bases, dropout_seed=1, loss_scale=1 / 32
                )
            if step == 1:
                found[zero_stage] = live_bytes() - before
            engine.optimizer_step(1e-3, 0.0)
        engine.close()
        del engine
    return found


def small_row() -> PackedBatch:
    """One document, so small that its activations do not count."""
    return PackedBatch(
        input_ids=torch.arange(64),
        cu_seqlens=torch.tensor([0, 64], dtype=torch.int32),
        max_seqlen=64,
        masked_positions=torch.arange(8),
        labels=torch.arange(8),
        weights=torch.ones(8),
        row_index=0,
    )
