"""Host time to launch a microbatch, compared with the device's minimum time; needs no GPU.

A GPU works through what the host has queued, and waits only where launching a microbatch takes
longer than computing it. Only then could CUDA graphs or torch.compile's wrappers save time.

The host time is the sum of two parts, each a median over repetitions. The model's GPU path, forward
and backward, runs on meta tensors: a fake driver takes every Triton launch up to the call of the
driver. PyTorch's operators there compute shapes in Python, some tens of microseconds each, instead
of launching a kernel from C++; the driver's own time is in neither. The overhead of DeepSpeed's
engine and its hooks is measured on a model with as many layers and parameters but few elements,
trained on a CPU under ZeRO 1 in bfloat16: time in the engine less that of the model alone.

The device's minimum time follows from bytes and FLOPs of a microbatch (gpu_step_shares.py) at the
copy bandwidth and matmul rate assumed for an H200. It falls with the tokens of a row, the host time
does not: with rows shorter than the one printed, the device may wait. Also printed: microseconds of
device time per launch and operator.

    python -m tests.benchmarks.bench_host                          # on an idle machine; a minute
    python -m tests.benchmarks.bench_host --models base --tokens 8192 --bandwidth 3e12
"""

import argparse
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.rows import Row
from mmbert.model.config import encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import Recipe
from mmbert.recipe.loading import override_recipe
from mmbert.schedule import step_settings, training_plan
from mmbert.training.engine.engine import Engine
from mmbert_kernels.support.dispatch import triton_is_installed
from tests.benchmarks.bench_gpu_step import MASK_RATIO, recipe_of
from tests.benchmarks.gpu_step_shares import floors
from tests.support.fake_gpu import OperatorRecorder, fake_gpu, on_meta_device
from tests.support.gpu_step_models import join_a_group_of_one
from tests.support.packed_rows import packed_rows

CONTEXT = 1024
WARMING_UP = 3
LOSS_SCALE = 2.0**-12
# A model of the preset's layers and parameters whose operations take a CPU next to nothing.
FEW_TOKENS = 16
FEW_NUMBERS = {
    "model.vocab_size": 512,
    "tokenizer.vocab_size": 512,
    "model.hidden_size": 8,
    "model.intermediate_size": 8,
    "model.num_attention_heads": 1,
    "batch.row_tokens": FEW_TOKENS,
}


@dataclass(frozen=True)
class HostCost:
    """Host time and launches of a microbatch of the model on a GPU."""

    forward_milliseconds: float
    backward_milliseconds: float
    launches: int
    operators: int
    """PyTorch operators, except views and allocations."""


@dataclass(frozen=True)
class Result:
    """Host and device time of one model."""

    model: str
    tokens: int
    issued: HostCost
    engine_milliseconds: float
    device_milliseconds: float

    @property
    def host_milliseconds(self) -> float:
        issued = self.issued
        return issued.forward_milliseconds + issued.backward_milliseconds + self.engine_milliseconds

    @property
    def times_as_long(self) -> float:
        """Ratio of the device's minimum time to the host time."""
        return self.device_milliseconds / self.host_milliseconds

    @property
    def fewest_tokens(self) -> float:
        """Tokens of a row for which device and host take equally long."""
        return self.tokens / self.times_as_long

    @property
    def microseconds_each(self) -> float:
        """Minimum device time per launch and operator."""
        return 1e3 * self.device_milliseconds / (self.issued.launches + self.issued.operators)


@contextmanager
def fake_driver() -> Iterator[Callable[..., Any]]:
    """Launch Triton kernels as on an H100 or H200, up to the driver."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from tests.kernels.compilation import FakeDriver

    launch = JITFunction.run

    def prepare(kernel: Any, *arguments: Any, warmup: bool, **options: Any) -> None:
        launch(kernel, *arguments, warmup=True, **options)

    with mock.patch.object(driver, "_active", FakeDriver(90)):
        yield prepare


def host_cost(recipe: Recipe, row: Row, repetitions: int) -> HostCost:
    """Measure the median host time of a row's forward and backward pass, and count launches."""
    assert recipe.model.vocab_size is not None
    config = encoder_config(recipe.model, recipe.model.vocab_size)
    phase, launches = recipe.phases[0], 0
    model, batch = on_meta_device(config, row)

    def microbatch() -> tuple[float, float]:
        model.zero_grad()
        begun = time.perf_counter()
        losses = model(batch, rotary_bases=phase.rotary_bases, dropout_seed=recipe.seed)
        between = time.perf_counter()
        (losses.sum() * LOSS_SCALE).backward()
        return between - begun, time.perf_counter() - between

    with fake_driver() as prepare:

        def counted(*arguments: Any, **options: Any) -> None:
            nonlocal launches
            launches += 1
            prepare(*arguments, **options)

        with fake_gpu(counted):
            for _ in range(WARMING_UP):  # compiles, and makes the tables that are kept
                microbatch()
            launches = 0
            with OperatorRecorder() as operators:
                microbatch()
            one = launches
            forward, backward = zip(*(microbatch() for _ in range(repetitions)), strict=True)
    return HostCost(
        forward_milliseconds=1e3 * statistics.median(forward),
        backward_milliseconds=1e3 * statistics.median(backward),
        launches=one,
        operators=len(operators.calls),
    )


def engine_overhead(recipe: Recipe, repetitions: int) -> float:
    """Measure the engine's overhead for a microbatch: median milliseconds."""
    contexts = {f"phases.{phase.name}.context": FEW_TOKENS for phase in recipe.phases}
    recipe = override_recipe(recipe, FEW_NUMBERS | contexts)
    config = encoder_config(recipe.model, FEW_NUMBERS["model.vocab_size"])
    device = torch.device("cpu")
    join_a_group_of_one(device)
    grid = build_grid(tensor_parallel=1)
    alone, inside = (
        MaskedLanguageModel(config, grid.tensor, sequence_parallel=False) for _ in range(2)
    )
    for model in (alone, inside):
        initialize_parameters(model, recipe.seed)
    alone.to(torch.bfloat16)
    engine = Engine(inside, recipe, grid, device)
    batch = to_batch(row_of(FEW_TOKENS, FEW_TOKENS, FEW_NUMBERS["model.vocab_size"]))
    settings = step_settings(recipe, training_plan(recipe), 0)

    def by_model() -> float:
        alone.zero_grad()
        begun = time.perf_counter()
        losses = alone(batch, dropout_seed=recipe.seed, **settings.model_arguments())
        (losses.sum() * LOSS_SCALE).backward()
        return time.perf_counter() - begun

    def by_engine() -> float:
        begun = time.perf_counter()
        engine.forward_backward(batch, settings, dropout_seed=recipe.seed, loss_scale=LOSS_SCALE)
        return time.perf_counter() - begun

    for _ in range(WARMING_UP):
        by_model(), by_engine()
    more = [by_engine() - by_model() for _ in range(repetitions)]
    engine.close()
    return 1e3 * statistics.median(more)


def row_of(tokens: int, context: int, vocabulary: int) -> Row:
    """Make a row as in training."""
    (row,) = packed_rows(
        1, tokens=tokens, context=context, mask_ratio=MASK_RATIO, vocabulary=vocabulary
    )
    return row


def measure(name: str, arguments: argparse.Namespace) -> Result:
    """Measure host and device time of a preset."""
    recipe = recipe_of(name, CONTEXT, arguments.tokens, tiny=False)
    row = row_of(arguments.tokens, CONTEXT, recipe.model.vocab_size or 0)
    return Result(
        model=name,
        tokens=arguments.tokens,
        issued=host_cost(recipe, row, arguments.repetitions),
        engine_milliseconds=engine_overhead(recipe, arguments.repetitions),
        device_milliseconds=sum(
            floors(recipe.model, [row], arguments.bandwidth, arguments.flops).values()
        ),
    )


def print_result(result: Result) -> None:
    issued = result.issued
    print(
        f"{result.model:7}{issued.launches:9}{issued.operators:11}"
        f"{issued.forward_milliseconds:9.1f}{issued.backward_milliseconds:10.1f}"
        f"{result.engine_milliseconds:8.1f}{result.host_milliseconds:8.1f}"
        f"{result.device_milliseconds:10.1f}{result.times_as_long:7.1f}"
        f"{result.microseconds_each:9.0f}{result.fewest_tokens:10,.0f}",
        flush=True,
    )


def processor() -> str:
    """Return the name of this machine's processor."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=["small", "base"], default=["small", "base"])
    parser.add_argument("--tokens", type=int, default=49_152, help="of a row")
    parser.add_argument("--repetitions", type=int, default=50, help="that are timed")
    parser.add_argument("--bandwidth", type=float, default=4.3e12, help="bytes a second")
    parser.add_argument("--flops", type=float, default=790e12, help="products' rate")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if not triton_is_installed():
        print("Triton is not installed here: there are no launches to time.")
        return 0
    torch.set_num_threads(1)
    print(f"{processor()}, one thread, torch {torch.__version__}")
    print(f"rows of {arguments.tokens:,} tokens, context {CONTEXT}, {MASK_RATIO:.0%} masked")
    print(
        f"the device: {arguments.bandwidth / 1e12:g} TB/s (copy), {arguments.flops / 1e12:g} "
        "TFLOP/s (product); assumed of an H200 unless given"
    )
    print("milliseconds of the host, and the least of the device:")
    print(
        f"{'model':7}{'launches':>9}{'operators':>11}{'forward':>9}{'backward':>10}{'engine':>8}"
        f"{'host':>8}{'device':>10}{'ratio':>7}{'us each':>9}{'tokens':>10}"
    )
    results = []
    for name in arguments.models:
        results.append(measure(name, arguments))
        print_result(results[-1])
    print(
        "ratio: device / host. us each: microseconds of the device's time for each launch and\n"
        "operator. tokens: of a row in which the two take equally long; in shorter ones CUDA\n"
        "graphs could save what the device waits."
    )
    if arguments.json is not None:
        about = {
            "processor": processor(),
            "torch": torch.__version__,
            "bytes_per_second": arguments.bandwidth,
            "flops": arguments.flops,
        }
        derived = ("host_milliseconds", "times_as_long", "microseconds_each", "fewest_tokens")
        records = [asdict(r) | {key: getattr(r, key) for key in derived} for r in results]
        arguments.json.write_text(json.dumps({**about, "results": records}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
