"""What the GPU benchmarks compare is the same, and their floors are the known ones.

They are run through at tiny sizes by the rehearsal of the GPU report (test_gpu_report.py).
"""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mmbert.parallel
import mmbert_kernels
from mmbert.model.config import encoder_config
from mmbert.model.flops import training_flops
from mmbert.parallel import collectives
from mmbert.recipe import ModelSettings
from tests.benchmarks import gpu_step_shares
from tests.benchmarks.bench_gpu_step import MASK_RATIO, Speed, recipe_of, verdict
from tests.benchmarks.gpu_step_shares import OPERATIONS, OTHER, bottleneck, floors
from tests.benchmarks.kernel_cases import benchmarks
from tests.kernels.case import Benchmark, Function
from tests.support.environment import ON_A_CPU, with_packages
from tests.support.gpu_step_models import (
    IGNORED,
    Transformers,
    packed_batch,
    padded_batch,
    unpacked,
)
from tests.support.packed_rows import document_lengths, packed_rows

ROOT = Path(__file__).parents[2]
# Their references are plain operators, which a trace has under "everything else".
PLAIN_ON_A_CPU = {"layer norms", "embedding"}


def run_module(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = with_packages(ROOT, **ON_A_CPU)  # torch.compile would want a C++ compiler
    return subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_operation_has_its_name_in_a_trace() -> None:
    """A trace tells operations by their autograd functions: the kernels' and the linear layers'."""
    names = {
        value.__name__
        for package in (mmbert_kernels, mmbert.parallel)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for value in vars(importlib.import_module(info.name)).values()
        if isinstance(value, type) and issubclass(value, torch.autograd.Function)
    }
    told = tuple(begin for beginnings in OPERATIONS.values() for begin in beginnings)
    for begin in told:
        if begin.startswith("_"):
            assert any(name.startswith(begin) for name in names), begin
    # what moves tokens between tensor ranks does nothing on one device
    moving = {
        value.__name__
        for value in vars(collectives).values()
        if isinstance(value, type) and issubclass(value, torch.autograd.Function)
    }
    assert {name for name in names - moving if not name.startswith(told)} == set()


def test_all_that_are_compared_compute_the_same() -> None:
    """Values and gradients, for an upstream gradient of ones."""
    torch.manual_seed(21)
    for _, case in benchmarks(torch.device("cpu"), torch.float32, 256, 512):
        leaves = [each for each in case.arguments if each.requires_grad]

        def summed(function: Function, case: Benchmark = case) -> torch.Tensor:
            out = function(*case.arguments)
            return (
                sum((each.sum() for each in out), torch.zeros(()))
                if isinstance(out, tuple)
                else out.sum()
            )

        values = [summed(case.ours), summed(case.eager), *map(summed, case.public.values())]
        gradients = [torch.autograd.grad(value, leaves) for value in values]
        if case.name.startswith("dropout"):
            continue  # other masks
        for value, gradient in zip(values[1:], gradients[1:], strict=True):
            torch.testing.assert_close(value, values[0], rtol=1e-4, atol=1e-2)
            torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["bench_kernels", "bench_gpu_step", "gpu_report.correctness"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_reported(name: str) -> None:
    run = run_module(name)
    assert run.returncode == 2
    assert run.stdout.startswith("There is no GPU here")


def speed(tokens_per_second: float, teraflops: float) -> Speed:
    return Speed("ours", 1.0, tokens_per_second, teraflops, None, 0.0, 0.0)


def test_verdicts() -> None:
    short = speed(280_000, 100.0)
    assert verdict("base", 1024, short, None) == "wanted 270,000 tokens/s: reached"
    assert verdict("small", 1024, speed(899_999, 1), None) == "wanted 900,000 tokens/s: MISSED"
    assert verdict("base", 8192, speed(1, 84.9), short).endswith("wanted 85%: MISSED")
    assert verdict("base", 8192, speed(1, 85.1), short).endswith("wanted 85%: reached")
    assert verdict("base", 2048, short, None) == ""


def test_the_floors_are_the_known_ones() -> None:
    """Base at context 1024 on an H200 (4.3 TB/s, 790 TFLOP/s), whose floors were worked out before:
    about 111 ms a row, of which the products of layers and head 64 ms."""
    assert gpu_step_shares.training_flops is training_flops
    recipe = recipe_of("base", 1024, 49_152, tiny=False)
    rows = packed_rows(1, tokens=49_152, context=1024, mask_ratio=MASK_RATIO, vocabulary=256_000)
    least = floors(recipe.model, rows, 4.3e12, 790e12)
    assert least["vocabulary head"] == pytest.approx(22.0, rel=0.01)
    assert least["linear layers"] == pytest.approx(41.3, rel=0.02)
    assert least["geglu"] / recipe.model.num_hidden_layers == pytest.approx(0.211, rel=0.01)
    assert 75 < sum(least.values()) < 111
    assert bottleneck({"a": 5.0, "b": 9.0, OTHER: 3.0}, {"a": 1.0, "b": 8.0}) == "a"


def test_rows_are_the_same_for_both() -> None:
    """The same tokens and labels, packed by transformers' rules or padded."""
    (row,) = packed_rows(1, tokens=600, context=128, mask_ratio=0.3, vocabulary=500)
    assert row.tokens == document_lengths(row).sum() == 600
    assert document_lengths(row).max() <= 128
    ids, labels = unpacked(row)
    assert [len(document) for document in ids] == document_lengths(row).tolist()
    assert (torch.cat(ids).numpy() == row.input_ids).all()
    masked = torch.cat(labels) != IGNORED
    used = row.weights > 0
    assert np.array_equal(masked.nonzero()[:, 0].numpy(), row.masked_positions[used])
    assert np.array_equal(torch.cat(labels)[masked].numpy(), row.labels[used])
    packed = packed_batch(row, ids, labels)
    assert packed["cu_seq_lens_q"].diff().tolist() == document_lengths(row).tolist()
    assert packed["position_ids"][0, :2].tolist() == [0, 1]
    padded = padded_batch(ids, labels)
    assert padded["attention_mask"].sum() == 600
    assert int((padded["labels"] != IGNORED).sum()) == int(used.sum())


def test_a_packed_and_a_padded_batch_have_the_same_loss() -> None:
    """What flash-attn would be given, here by sdpa, which finds documents by their positions."""
    (row,) = packed_rows(1, tokens=300, context=128, mask_ratio=0.3, vocabulary=512)
    recipe = recipe_of("small", 128, 300, tiny=True)
    torch.manual_seed(21)
    theirs = Transformers(recipe, 128, torch.device("cpu"), documents=4)
    theirs.model.float().eval()
    losses = []
    for documents in (4, None):
        theirs._documents = documents
        batches = theirs._batches(row)
        counts = [int((batch["labels"] != IGNORED).sum()) for batch in batches]
        with torch.no_grad():
            found = [theirs.model(**batch).loss.item() for batch in batches]
        losses.append(sum(a * b for a, b in zip(found, counts, strict=True)) / sum(counts))
    assert len(document_lengths(row)) > 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("name", ["small", "base"])
def test_the_recipes_are_the_presets(name: str) -> None:
    recipe = recipe_of(name, 8192, 49_152, tiny=False)
    assert isinstance(recipe.model, ModelSettings)
    encoder = encoder_config(recipe.model, 256_000)
    assert encoder.hidden_size == {"small": 384, "base": 768}[name]
    assert recipe.precision == "bfloat16"
    assert recipe.phases[0].context == 8192
    assert recipe.parallel.zero_stage == 1
