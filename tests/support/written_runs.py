"""A small trained model in a run folder, written by the checkpoint store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmbert.checkpoint.store import CheckpointStore, RunState
from mmbert.hub.models import pack
from mmbert.model.config import EncoderConfig, encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.parameter_spec import spec_of
from mmbert.parallel.process_grid import ProcessGrid, TensorGroup
from mmbert.parallel.zero_fragment import MASTER, ParameterFragment, RowState
from mmbert.recipe import Recipe, dump_recipe, override_recipe, parse_recipe
from tests.support.step_weights import STATES
from tests.support.tokenizers import (
    SENTENCES,
    metaspace_tokenizer,
    save_described_tokenizer,
)

TOLERANCE = 1e-5
"""Maximum difference of logits relative to the largest logit."""

# Different bases for global and local attention, and for the first and the last phase.
RECIPE = """
name: tiny-run
precision: float32
model:
  hidden_size: 64
  intermediate_size: 96
  num_hidden_layers: 4
  num_attention_heads: 4
  local_window: 16
batch: {row_tokens: 512, rows: 4, quantum: 4}
optimizer: {learning_rate: 0.01}
phases:
  - name: first
    tokens: 40960
    context: 64
    languages: [eng, deu]
    temperature: 0.7
    mask_ratio: 0.3
    rotary_bases: {global: 10000, local: 10000}
  - name: last
    tokens: 20480
    context: 256
    languages: all
    temperature: 0.3
    mask_ratio: 0.15
    rotary_bases: {global: 20000, local: 500}
"""
LANGUAGE_TOKENS = {"eng_Latn": 30_000, "deu_Latn": 20_000, "rus_Cyrl": 8_000, "swh_Latn": 3_440}


@dataclass(frozen=True)
class Run:
    """Run folder with one checkpoint, and the model in it."""

    folder: Path
    checkpoint: Path
    recipe: Recipe
    model: MaskedLanguageModel


def recipe() -> Recipe:
    return parse_recipe(RECIPE)


def trained_model(config: EncoderConfig, *, steps: int = 80, seed: int = 1) -> MaskedLanguageModel:
    """Train a model on the sentences, so that its logits are large."""
    model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    initialize_parameters(model, seed)
    tokenizer = metaspace_tokenizer()
    documents = [torch.tensor(tokenizer.encode(text).ids) for text in SENTENCES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    bases = recipe().phases[-1].rotary_bases
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        batch = masked(pack(documents[:8]), 0.2, generator)
        loss = model(batch, rotary_bases=bases, dropout_seed=step).sum() / batch.weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def masked(batch: PackedBatch, ratio: float, generator: torch.Generator) -> PackedBatch:
    """Return the row with a fraction of its tokens masked."""
    tokens = len(batch.input_ids)
    count = int(tokens * ratio)
    positions = torch.randperm(tokens, generator=generator)[:count].sort().values
    input_ids = batch.input_ids.clone()
    input_ids[positions] = 4
    return PackedBatch(
        input_ids=input_ids,
        cu_seqlens=batch.cu_seqlens,
        max_seqlen=batch.max_seqlen,
        masked_positions=positions,
        labels=batch.input_ids[positions],
        weights=torch.ones(count),
        row_index=0,
    )


class EngineOfOneRank:
    """Engine interface of the checkpoint store for an unsharded model."""

    grid = ProcessGrid.single()
    zero_stage = 1
    device = torch.device("cpu")
    steps_taken = 0

    def __init__(self, model: MaskedLanguageModel) -> None:
        self._model = model

    def fragments(self) -> Iterator[ParameterFragment]:
        for _, parameter in self._model.named_parameters():
            flat: Tensor = parameter.detach().flatten()
            zeros = torch.zeros_like(flat)
            states = dict.fromkeys(STATES, zeros) | {MASTER: flat}
            yield ParameterFragment(spec_of(parameter), 0, 1, 0, flat.numel(), states)

    def row_states(self) -> tuple[RowState, ...]:
        return ()


def causal_recipe() -> Recipe:
    """The recipe with a causal first phase."""
    keys = {"objective": "causal", "mask_ratio": None, "predicted_share": 0.25}
    return override_recipe(recipe(), {f"phases.first.{key}": keys[key] for key in keys})


def save_run(
    folder: Path,
    model: MaskedLanguageModel,
    *,
    phase: str = "last",
    step: int = 30,
    of: Recipe | None = None,
) -> Path:
    """Write a run folder with tokenizer/ and one checkpoint; returns the checkpoint's path."""
    if not (folder / "tokenizer").exists():
        save_described_tokenizer(folder / "tokenizer", metaspace_tokenizer())
    state = RunState(
        step=step,
        tokens=step * 2048,
        phase=phase,
        recipe=dump_recipe(of or recipe()),
        tokenizer="tokenizer",
        language_tokens=LANGUAGE_TOKENS,
    )
    store = CheckpointStore(folder / "checkpoints", asynchronous=False)
    return store.save(EngineOfOneRank(model), state)


def make_run(folder: Path) -> Run:
    size = metaspace_tokenizer().get_vocab_size()
    model = trained_model(encoder_config(recipe().model, size))
    return Run(folder, save_run(folder, model), recipe(), model)


def documents(run: Run) -> list[Tensor]:
    """Return documents of several lengths, two of them longer than the local window of 16."""
    generator = torch.Generator().manual_seed(0)
    size = run.model.config.vocab_size
    return [torch.randint(5, size, (n,), generator=generator) for n in (9, 120, 3, 61)]


def our_logits(run: Run, texts: list[Tensor]) -> list[Tensor]:
    bases = run.recipe.phases[-1].rotary_bases
    packed = run.model.logits(pack(texts), rotary_bases=bases, all_tokens=True)
    return list(packed.split([len(text) for text in texts]))
