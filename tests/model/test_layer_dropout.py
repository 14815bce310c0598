"""Every layer, run and row has a different dropout mask."""

import itertools
from typing import Any

import torch

from mmbert_kernels.norms.dropout import Dropout, keep_mask
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

SHARE, WIDTH = 0.3, 64


def dropouts_of(seed: int, *, row_index: int = 5) -> list[Dropout]:
    """Return the dropout that each layer passes to its norm in one forward pass."""
    model = tiny_model(tiny_config(attention_output_dropout=SHARE))
    given: list[Dropout] = []

    def note(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        given.append(arguments["dropout"])

    for layer in model.model.layers:
        layer.mlp_norm.register_forward_pre_hook(note, with_kwargs=True)
    model(random_row(row_index=row_index), rotary_bases=BASES, dropout_seed=seed)
    return given


def agreement(one: Dropout, other: Dropout) -> float:
    """Return the fraction of elements on which both masks agree."""
    masks = [keep_mask(each, 4096, WIDTH, torch.device("cpu")) for each in (one, other)]
    return float((masks[0] == masks[1]).float().mean())


def test_no_two_layers_and_no_two_seeds_share_a_mask() -> None:
    given = {seed: dropouts_of(seed) for seed in (0, 1, 2)}
    everything = [dropout for layers in given.values() for dropout in layers]
    assert [dropout.p for dropout in everything] == [SHARE] * 12
    assert len({dropout.seed for dropout in everything}) == 12
    # Independent masks agree where both keep or both drop; 5 standard deviations of 262,144 draws.
    expected = SHARE**2 + (1 - SHARE) ** 2
    others = [given[0][1], given[0][3], given[1][0], given[2][3]]
    for one, other in itertools.pairwise([given[0][0], *others]):
        assert abs(agreement(one, other) - expected) < 0.005


def test_the_rows_of_a_run_lie_one_after_the_other() -> None:
    """A token's mask is determined by its index in the whole run, so rows do not share masks."""
    tokens = len(random_row().input_ids)
    for index in (0, 1, 7):
        assert {dropout.first_token for dropout in dropouts_of(4, row_index=index)} == {
            index * tokens
        }
