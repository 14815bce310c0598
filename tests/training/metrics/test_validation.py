"""Validation against losses computed directly, in any mode and with any dropout."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.rows import Row
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import DataGroup
from mmbert.training.metrics.results import Losses
from mmbert.training.metrics.validation import Validator
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

CPU = torch.device("cpu")
TABLE = SimpleNamespace(
    names=("text/eng", "text/deu"),
    languages=("eng", "deu"),
    tiers=("early", "late"),
    plan=SimpleNamespace(phases=[SimpleNamespace(name="early"), SimpleNamespace(name="late")]),
)


def row(number: int) -> Row:
    """Build a row of two languages whose last two mask slots are unused."""
    batch = random_row(seed=number, row_index=number)
    components = np.arange(len(batch.labels)) % 2
    components[-2:] = -1
    return cast(
        Row,
        SimpleNamespace(
            index=number,
            input_ids=batch.input_ids.numpy(),
            cu_seqlens=batch.cu_seqlens.numpy(),
            max_seqlen=batch.max_seqlen,
            masked_positions=batch.masked_positions.numpy(),
            labels=batch.labels.numpy(),
            weights=batch.weights.numpy(),
            masked_components=components.astype(np.int32),
        ),
    )


ROWS = [row(number) for number in range(3)]


def measure(model: nn.Module, heartbeat: Any = lambda: None, *, causal: bool = False) -> Losses:
    table = cast(ComponentTable, TABLE)
    validator = Validator(ROWS, table, DataGroup.single(), CPU, causal=causal)
    return Losses.of(validator.validate(model, BASES, heartbeat), table)


def with_dropout(share: float) -> MaskedLanguageModel:
    return tiny_model(tiny_config(attention_output_dropout=share))


def test_no_dropout_acts_on_it() -> None:
    assert measure(with_dropout(0.5)) == measure(with_dropout(0.0))


def test_it_is_the_mean_over_the_masked_tokens_of_all_rows() -> None:
    model, losses, languages = with_dropout(0.5), [], []
    for given in ROWS:
        batch = to_batch(given)
        logits = model.logits(batch, rotary_bases=BASES)
        every = nn.functional.cross_entropy(logits.double(), batch.labels, reduction="none")
        losses += every[:-2].tolist()
        languages += given.masked_components[:-2].tolist()
    own = [np.mean([v for v, c in zip(losses, languages, strict=True) if c == k]) for k in (0, 1)]
    found = measure(model)
    assert found.overall is not None
    assert abs(found.overall - np.mean(losses)) < 1e-5
    for name, tier, expected in (("eng", "early", own[0]), ("deu", "late", own[1])):
        assert abs(found.languages[name] - expected) < 1e-5
        assert found.tiers[tier] == found.languages[name]


def test_next_tokens_are_predicted_from_those_before() -> None:
    model, losses = with_dropout(0.5), []
    for given in ROWS:
        batch = to_batch(given)
        logits = model.logits(batch, rotary_bases=BASES, causal=True)
        every = nn.functional.cross_entropy(logits.double(), batch.labels, reduction="none")
        losses += every[:-2].tolist()
    found = measure(model, causal=True).overall
    assert found is not None
    assert abs(found - np.mean(losses)) < 1e-5
    assert found != measure(model).overall


def test_the_model_comes_back_in_its_mode_and_every_row_is_a_sign_of_life() -> None:
    for mode in (True, False):
        model, heartbeats = with_dropout(0.1).train(mode), []
        measure(model, lambda heartbeats=heartbeats: heartbeats.append(1))
        assert model.training is mode
        assert len(heartbeats) == len(ROWS)
