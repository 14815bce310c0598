"""Packed models under DistributedDataParallel, torch.compile and several threads, and on import."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

import mmbert
from tests.support.environment import with_packages
from tests.support.live_models import (
    ENCODER,
    LENGTHS,
    MASKED_LM,
    SEQUENCE,
    assert_same,
    difference,
    live_model,
    padded,
    train,
    with_labels,
)
from tests.support.ranks import run_ranks

# Of both ranks' texts together, and of each rank.
ALL = [60, 7, 3, 25, 14, 40, 9, 12]


def _train_on_half(rank: int, world_size: int) -> dict[str, Any]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    found = {}
    for kind in (SEQUENCE, MASKED_LM):
        model = mmbert.pack(live_model(kind))
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        batch = with_labels(kind, padded(ALL))
        mine = {name: value[rank * 4 : rank * 4 + 4] for name, value in batch.items()}
        parallel(**mine).loss.backward()
        assert not model.model.forward.detours.counts
        found |= {(kind, name): value.grad.numpy() for name, value in model.named_parameters()}
    return found


def test_two_processes_of_distributed_data_parallel() -> None:
    by_rank = run_ranks(_train_on_half, 2)
    for kind in (SEQUENCE, MASKED_LM):
        expected = live_model(kind).train()
        batch = with_labels(kind, padded(ALL))
        for rank in range(2):
            mine = {name: value[rank * 4 : rank * 4 + 4] for name, value in batch.items()}
            (expected(**mine).loss / 2).backward()
        for name, parameter in expected.named_parameters():
            first, second = (torch.from_numpy(by_rank[rank][kind, name]) for rank in range(2))
            assert torch.equal(first, second), name
            assert difference(first, parameter.grad) <= 5e-6, name


def test_threads_that_share_a_model() -> None:
    model = mmbert.pack(live_model()).eval()
    batches = [padded([length, 5], seed=length) for length in range(6, 14)]
    with torch.no_grad():
        expected = [model(**batch).last_hidden_state for batch in batches]

    def compute(number: int) -> bool:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=number % 2 == 1):
            found = model(**batches[number // 2]).last_hidden_state
        return number % 2 == 1 or torch.equal(found, expected[number // 2])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(compute, range(2 * len(batches))))


@pytest.mark.parametrize(
    "kind",
    [
        SEQUENCE,
        # Of these nothing is left to compile.
        pytest.param(ENCODER, marks=pytest.mark.long),
        pytest.param(MASKED_LM, marks=pytest.mark.long),
    ],
)
def test_compiled_from_outside(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")  # off in other tests
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, unpacked = mmbert.pack(live_model(kind)), live_model(kind)
    compiled = torch.compile(model, backend="eager")
    # Then another shape, and weights that changed since: nothing of the first call was built in.
    for lengths in (LENGTHS["mixed"], [5, 9, 33]):
        batch = with_labels(kind, padded(lengths))
        found = train(compiled, batch)
        gradients = {n.removeprefix("_orig_mod."): g for n, g in found.gradients.items()}
        assert_same(replace(found, gradients=gradients), train(unpacked, batch))
        with torch.no_grad():
            for parameter in [*model.parameters(), *unpacked.parameters()]:
                parameter.mul_(0.9)
    if kind == SEQUENCE:  # a head around the encoder
        assert torch._dynamo.utils.counters["graph_break"]
    encoder = model if kind == ENCODER else model.model
    assert not encoder.forward.detours.counts


AT_IMPORT = """
import sys
import mmbert
assert callable(mmbert.pack)
print("heavy:", sorted({"torch", "transformers", "deepspeed"} & set(sys.modules)))
"""
WHEN_PACKED = """
import sys
import mmbert
from transformers import ModernBertConfig, ModernBertModel
model = ModernBertModel(ModernBertConfig(
    vocab_size=20, hidden_size=16, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
    sep_token_id=2,
))
mmbert.pack(model)
print("heavy:", sorted({"deepspeed", "sentence_transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "program",
    [AT_IMPORT, pytest.param(WHEN_PACKED, marks=pytest.mark.long)],
    ids=["mmbert", "pack"],
)
def test_what_is_imported(program: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=with_packages(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert "heavy: []" in finished.stdout, finished.stderr


def test_losses_of_two_passes_before_one_backward_pass() -> None:
    model, other = mmbert.pack(live_model(MASKED_LM)), live_model(MASKED_LM)
    batches = [with_labels(MASKED_LM, padded(LENGTHS[name])) for name in ("mixed", "pairs")]
    for each in (model, other):
        each.train()
        sum(each(**batch).loss for batch in batches).backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert difference(ours.grad, theirs.grad) <= 5e-6, name
    assert_same(train(model, batches[0]), train(other, batches[0]))
