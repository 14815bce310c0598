"""The two that bench_gpu_step.py compares, each with a `step` over the same packed rows.

Ours is training's own step: the engine over DeepSpeed (ZeRO 1), StableAdamW, dropout, losses kept
by component. transformers' ModernBERT runs with its fastest attention, bfloat16 weights and states,
PyTorch's fused AdamW and no dropout, all of which is in its favour.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert.data.loading.rows import Row
from mmbert.model.config import encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import Recipe
from mmbert.schedule import step_settings, training_plan
from mmbert.training.engine.engine import Engine
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.train_step import StepRunner
from mmbert_kernels.support.dispatch import is_installed

IGNORED = -100


class Ours:
    """Training's step on one device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        join_a_group_of_one(device)
        grid = build_grid(tensor_parallel=1)
        assert recipe.model.vocab_size is not None
        encoder = encoder_config(recipe.model, recipe.model.vocab_size)
        model = MaskedLanguageModel(encoder, grid.tensor, sequence_parallel=False)
        initialize_parameters(model, recipe.seed)
        settings = step_settings(recipe, training_plan(recipe), 0)
        self._settings = replace(settings, learning_rate=1e-5, weight_decay=0.0)
        self.engine = Engine(model.to(device), recipe, grid, device)
        self._runner = StepRunner(
            self.engine,
            dropout_seed=recipe.seed,
            meter=LossMeter(1, device),
            step_timer=StepTimer(device),
        )

    def step(self, rows: Sequence[Row]) -> float:
        """Train on the rows; the mean loss per masked token."""
        outcome = self._runner.run(
            rows,
            self._settings,
            pending_requests=LoopRequests,
        )
        if not outcome.report.finite:
            raise RuntimeError(f"the step's loss is {outcome.loss}")
        return outcome.loss

    def close(self) -> None:
        """Let go of the model and its states."""
        self.engine.close()


class Transformers:
    """transformers' ModernBERT of the same sizes: packed with flash-attn, else padded with sdpa."""

    def __init__(
        self, recipe: Recipe, context: int, device: torch.device, documents: int | None
    ) -> None:
        """`documents`: how many make a padded batch; None packs a whole row (flash-attn alone)."""
        from transformers import ModernBertConfig, ModernBertForMaskedLM

        sizes = recipe.model
        self._device, self._documents = device, documents
        config = ModernBertConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            max_position_embeddings=context,
            sparse_prediction=True,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=1,
            cls_token_id=2,
            sep_token_id=1,
            attn_implementation="sdpa" if documents else "flash_attention_2",
        )
        model: Any = ModernBertForMaskedLM(config)
        self.model = model.to(device, torch.bfloat16).train()
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step(self, rows: Sequence[Row]) -> float:
        """Train on the rows, batch by batch; the mean loss per masked token."""
        masked = sum(float(row.weights.sum()) for row in rows)
        total = torch.zeros((), device=self._device)
        for row in rows:
            for batch in self._batches(row):
                share = float((batch["labels"] != IGNORED).sum()) / masked
                loss = self.model(**self._sent(batch)).loss * share
                loss.backward()
                total += loss.detach()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(total)

    def _sent(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self._device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    def _batches(self, row: Row) -> list[dict[str, Any]]:
        ids, labels = unpacked(row)
        if self._documents is None:
            return [packed_batch(row, ids, labels)]
        lengths = [len(document) for document in ids]
        order = sorted(range(len(ids)), key=lengths.__getitem__)  # the least padding there can be
        groups = [order[i : i + self._documents] for i in range(0, len(order), self._documents)]
        padded = [padded_batch([ids[i] for i in g], [labels[i] for i in g]) for g in groups]
        return [batch for batch in padded if bool((batch["labels"] != IGNORED).any())]


def unpacked(row: Row) -> tuple[list[Tensor], list[Tensor]]:
    """Input ids and labels of a row's documents."""
    labels = torch.full((len(row.input_ids),), IGNORED)
    used = row.weights > 0
    labels[torch.from_numpy(row.masked_positions[used]).long()] = torch.from_numpy(
        row.labels[used]
    ).long()
    bounds = row.cu_seqlens.tolist()
    pieces = [slice(a, b) for a, b in pairwise(bounds) if b > a]
    ids = torch.from_numpy(row.input_ids).long()
    return [ids[piece] for piece in pieces], [labels[piece] for piece in pieces]


def packed_batch(row: Row, ids: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
    """The whole row as one sequence, with the bounds that transformers hands to flash-attn."""
    bounds = torch.from_numpy(row.cu_seqlens)
    bounds = torch.cat((bounds[:1], bounds[1:][bounds[1:] > bounds[:-1]]))
    return {
        "input_ids": torch.cat(ids)[None],
        "labels": torch.cat(labels)[None],
        "position_ids": torch.cat([torch.arange(len(document)) for document in ids])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(len(document) for document in ids),
        "max_length_k": max(len(document) for document in ids),
    }


def padded_batch(ids: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
    """Documents padded to the longest of them."""
    pad = torch.nn.utils.rnn.pad_sequence
    ones = [torch.ones_like(document) for document in ids]
    return {
        "input_ids": pad(ids, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": pad(ones, batch_first=True),
    }


def has_flash_attention() -> bool:
    """Whether transformers can run ModernBERT with flash-attn here."""
    return torch.cuda.is_available() and is_installed("flash_attn.flash_attn_interface")


def join_a_group_of_one(device: torch.device) -> None:
    """The process group that the engine wants, of this process alone."""
    if dist.is_initialized():
        return
    os.environ.update(
        RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    store = dist.HashStore()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
