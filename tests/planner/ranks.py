"""Rank functions of the planner tests."""

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_leaves

from mmbert.model.config import encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import parse_recipe
from mmbert.training.engine.engine import Engine
from tests.support.step_settings import make_settings

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


def live_bytes(group: dist.ProcessGroup | None = None) -> int:
    """Return the bytes of all live tensor storages, after pending reductions in `group`."""
    counts = [-1]
    dist.barrier(group)
    while counts[-3:] != [counts[-1]] * 3:
        time.sleep(0.1)
        counts.append(_bytes_of_storages())
    return counts[-1]


def _bytes_of_storages() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from deprecated objects among those inspected
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer)


def bytes_after_backward(
    rank: int, world_size: int, zero_stages: tuple[int, ...], *overrides: str
) -> dict[int, int]:
    """Return the bytes held by an engine after its second step's backward passes, by ZeRO stage."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    found = {}
    for zero_stage in zero_stages:
        recipe = parse_recipe(RECIPE, [f"parallel.zero_stage={zero_stage}", *overrides])
        before = live_bytes()
        grid = build_grid()
        model = MaskedLanguageModel(
            encoder_config(recipe.model, VOCABULARY), grid.tensor, sequence_parallel=False
        )
        initialize_parameters(model, 0)
        engine = Engine(model, recipe, grid, torch.device("cpu"))
        del model
        settings = make_settings(rotary_bases=recipe.phases[0].rotary_bases)
        for step in range(2):
            for _ in range(2):
                engine.forward_backward(
                    small_row(),
                    settings,
                    dropout_seed=1,
                    loss_scale=1 / 32,
                )
            if step == 1:
                found[zero_stage] = live_bytes(grid.data.group) - before
            engine.optimizer_step(make_settings(1e-3, 0.0))
        engine.close()
        del engine
    return found


def bytes_sent_in_a_step(
    rank: int, world_size: int, zero_stages: tuple[int, ...]
) -> dict[int, tuple[float, float]]:
    """Return the (gradient, weight) bytes sent by ring collectives in a step, by ZeRO stage.

    The step has two rows per rank.
    """
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    found = {}
    for zero_stage in zero_stages:
        recipe = parse_recipe(RECIPE, [f"parallel.zero_stage={zero_stage}"])
        grid = build_grid()
        model = MaskedLanguageModel(
            encoder_config(recipe.model, VOCABULARY), grid.tensor, sequence_parallel=False
        )
        initialize_parameters(model, 0)
        engine = Engine(model, recipe, grid, torch.device("cpu"))
        del model
        for _ in range(2):  # in the first one ZeRO 3 records its prefetch order
            counts: dict[str, int] = {}
            with _counting(counts):
                for number in range(2):
                    engine.forward_backward(
                        small_row(),
                        make_settings(rotary_bases=recipe.phases[0].rotary_bases),
                        dropout_seed=1,
                        loss_scale=1 / 32,
                        last=number == 1,
                    )
                engine.optimizer_step(make_settings(1e-3, 0.0))
        ring = (world_size - 1) / world_size
        gradients = 2 * counts.get("all-reduce", 0) + counts.get("reduce-scatter", 0)
        found[zero_stage] = (gradients * ring, counts.get("all-gather", 0) * ring)
        engine.close()
        del engine
    return found


@contextmanager
def _counting(counts: dict[str, int]) -> Iterator[None]:
    """Sum the bytes of the full tensors of collectives, ignoring small ones (norms, flags)."""
    kinds = {
        "allreduce": "all-reduce",
        "_allgather_base": "all-gather",
        "all_gather_single": "all-gather",
        "allgather": "all-gather",
        "_reduce_scatter_base": "reduce-scatter",
        "reduce_scatter_single": "reduce-scatter",
        "reduce_scatter": "reduce-scatter",
    }
    kinds = {name: kind for name, kind in kinds.items() if name in dist.ProcessGroup.__dict__}
    originals = {name: getattr(dist.ProcessGroup, name) for name in kinds}
    # Descriptors, since a restored plain function would not bind to its object.
    descriptors = {name: dist.ProcessGroup.__dict__[name] for name in kinds}

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
            # The full tensor is the output of all-gather and the input of reduce-scatter. A tensor
            # passed both whole and in parts counts once.
            size = max(sum(t.nbytes for t in tensors) - min(t.nbytes for t in tensors), 0)
            size = tensors[0].nbytes if name == "allreduce" else size
            if size > 10_000:
                counts[kinds[name]] = counts.get(kinds[name], 0) + size
            return originals[name](*arguments, **keywords)

        return call

    for name in kinds:
        setattr(dist.ProcessGroup, name, counted(name))
    try:
        yield
    finally:
        for name, descriptor in descriptors.items():
            setattr(dist.ProcessGroup, name, descriptor)


def small_row() -> PackedBatch:
    """Return a row with one document, whose activations are negligible."""
    return PackedBatch(
        input_ids=torch.arange(64),
        cu_seqlens=torch.tensor([0, 64], dtype=torch.int32),
        max_seqlen=64,
        masked_positions=torch.arange(8),
        labels=torch.arange(8),
        weights=torch.ones(8),
        row_index=0,
    )
