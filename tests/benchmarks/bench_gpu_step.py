"""Speed of the full training step of base and small on one GPU, and a breakdown of its time.

Rows of 49,152 tokens of documents of web-like lengths, 30% masked, contexts 1024 and 8192,
bfloat16, a vocabulary of 256,000; a step is several rows and the optimizer. Reports tokens per
second, MFU (by the formula that training logs and the planner share) of the nominal peak and of the
matmul rate measured here, peak memory, and the targets; then the device time of each operation
with its lower bound, and the operation that exceeds its bound the most.

Part of the GPU report (make gpu-report); alone:

    python -m tests.benchmarks.bench_gpu_step
    python -m tests.benchmarks.bench_gpu_step --models base --contexts 1024 --no-trace
    python -m tests.benchmarks.bench_gpu_step --device cpu            # tiny, to try this script
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import mmbert_kernels as kernels
from mmbert.data.loading.rows import Row
from mmbert.hardware import peak_flops
from mmbert.model.flops import training_flops
from mmbert.recipe import Recipe, load_recipe
from tests.benchmarks.bench_kernels import Clock, device_rates
from tests.benchmarks.gpu_report.options import device_of, part_parser
from tests.benchmarks.gpu_report.records import Recorder
from tests.benchmarks.gpu_step_shares import bottleneck, floors, shares
from tests.support.gpu_step_models import Ours
from tests.support.packed_rows import document_lengths, packed_rows

RECIPES = Path(__file__).parents[2] / "src" / "mmbert" / "recipes"
MASK_RATIO = 0.3
# What a step runs: their tests say whether its speed is that of the right thing.
OPERATIONS = (
    "layer norms",
    "embedding",
    "geglu",
    "rotary",
    "attention",
    "gather rows",
    "vocabulary head",
    "optimizer",
    "training step",
)
# Tokens per second that are wanted on an H200, and what the longer context must keep of the
# utilisation at the shorter one.
TARGET_TOKENS_PER_SECOND = {("base", 1024): 270_000.0, ("small", 1024): 900_000.0}
TARGET_FRACTION, SHORT, LONG = 0.85, 1024, 8192
# The public figure that is nearest to this work: MLPerf Training 4.1, BERT-large on 8 H200.
ANCHOR = (
    "for comparison, MLPerf Training 4.1's BERT-large on 8 H200: 255,000 tokens/s a GPU, about "
    "495 TFLOP/s, in FP8"
)
# A model that a CPU trains in a second, to try this script.
TINY = (
    "model.vocab_size=512", "tokenizer.vocab_size=512", "model.hidden_size=64",
    "model.intermediate_size=64", "model.num_hidden_layers=2", "model.num_attention_heads=2",
)  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """Measurements of one model at one context."""

    who: str
    step_milliseconds: float
    tokens_per_second: float
    teraflops: float
    utilisation: float | None
    """Fraction of the device's nominal peak; None if that is unknown."""
    utilization_of_measured: float
    peak_memory_gib: float


@dataclass(frozen=True)
class Device:
    """The device and its measured capabilities."""

    device: torch.device
    peak: float | None
    bandwidth: float
    rate: float

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forget_memory(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_memory_gib(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0


def recipe_of(name: str, context: int, row_tokens: int, *, tiny: bool) -> Recipe:
    """Load the preset's recipe with this context."""
    return load_recipe(
        RECIPES / f"mmbert-{name}.yaml",
        [
            f"batch.row_tokens={row_tokens}",
            *(f"phases.{phase}.context={context}" for phase in ("pretrain", "extension", "decay")),
            f"phases.pretrain.mask_ratio={MASK_RATIO}",
            *(TINY if tiny else ()),
        ],
    )


def measure(
    who: str,
    step: Callable[[Sequence[Row]], float],
    rows: Sequence[Row],
    recipe: Recipe,
    device: Device,
    steps: int,
) -> Speed:
    """Measure the median of `steps` steps on `rows`, after two warm-up steps."""
    for _ in range(2):
        step(rows)
    seconds = []
    for _ in range(steps):
        device.wait()
        begun = time.perf_counter()
        step(rows)
        device.wait()
        seconds.append(time.perf_counter() - begun)
    taken = statistics.median(seconds)
    flops = sum(
        training_flops(
            recipe.model,
            recipe.model.vocab_size or 0,
            document_lengths(row),
            len(row.masked_positions),
        )
        for row in rows
    )
    return Speed(
        who=who,
        step_milliseconds=1e3 * taken,
        tokens_per_second=sum(row.tokens for row in rows) / taken,
        teraflops=flops / taken / 1e12,
        utilisation=None if device.peak is None else flops / taken / device.peak,
        utilization_of_measured=flops / taken / device.rate,
        peak_memory_gib=device.peak_memory_gib(),
    )


def record_speed(
    recorder: Recorder, subject: str, speed: Speed, operations: tuple[str, ...] = OPERATIONS
) -> None:
    """Record all values of a speed; the tests of `operations` verify them."""
    values: tuple[tuple[str, float | None, str], ...] = (
        ("tokens", speed.tokens_per_second, "per second"),
        ("step", speed.step_milliseconds, "ms"),
        ("rate", speed.teraflops, "TFLOP/s"),
        ("of nominal peak", speed.utilisation, ""),
        ("of measured products", speed.utilization_of_measured, ""),
        ("peak memory", speed.peak_memory_gib, "GiB"),
    )
    for quantity, value, unit in values:
        if value is not None:
            recorder.figure(subject, quantity, value, unit, operations)


def verdict(name: str, context: int, speed: Speed, short: Speed | None) -> str:
    """Compare a speed with its target."""
    wanted = TARGET_TOKENS_PER_SECOND.get((name, context))
    if wanted is not None:
        reached = speed.tokens_per_second >= wanted
        return f"wanted {wanted:,.0f} tokens/s: {'reached' if reached else 'MISSED'}"
    if context == LONG and short is not None:
        share = speed.teraflops / short.teraflops
        reached = share >= TARGET_FRACTION
        return (
            f"{share:.0%} of the utilisation at {SHORT}, wanted {TARGET_FRACTION:.0%}: "
            f"{'reached' if reached else 'MISSED'}"
        )
    return ""


def record_shares(
    recorder: Recorder, subject: str, found: dict[str, float], least: dict[str, float], step: float
) -> None:
    """Record time and lower bound of each operation; `step`: milliseconds without tracing."""
    total = sum(found.values())
    for name, milliseconds in found.items():
        row = f"{subject}, {name}"
        recorder.figure(row, "time", milliseconds, "ms", OPERATIONS)
        recorder.figure(row, "share", milliseconds / total, "", OPERATIONS)
        if name in least:
            recorder.figure(row, "floor", least[name], "ms")
    holder = bottleneck(found, least)
    above = found[holder] - least.get(holder, 0.0)
    recorder.remark(
        subject,
        f"{total - sum(least.values()):.2f} ms above the floors, most of it in {holder} "
        f"({above:.2f} ms); the device computes in {total:.2f} of a step's {step:.2f} ms, and "
        "waits for the host or for memory in the rest: what CUDA graphs could bring at most",
    )


@dataclass(frozen=True)
class Setting:
    """A model, a context and training rows."""

    name: str
    context: int
    recipe: Recipe
    rows: Sequence[Row]

    @property
    def subject(self) -> str:
        return f"{self.name} {self.context}"


def settings(arguments: argparse.Namespace) -> list[Setting]:
    """Return every model at every context, most important first."""
    found = []
    for name in arguments.models:
        for context in arguments.contexts:
            recipe = recipe_of(name, context, arguments.tokens, tiny=arguments.device == "cpu")
            rows = packed_rows(
                arguments.microbatches,
                tokens=arguments.tokens,
                context=context,
                mask_ratio=MASK_RATIO,
                vocabulary=recipe.model.vocab_size or 0,
            )
            found.append(Setting(name, context, recipe, rows))
    return found


def speeds(
    chosen: Sequence[Setting], device: Device, arguments: argparse.Namespace, recorder: Recorder
) -> dict[str, Speed]:
    """Measure and record the speed of each setting that fits into memory."""
    found: dict[str, Speed] = {}
    for setting in chosen:
        device.forget_memory()
        try:
            speed = _speed_of(setting, device, arguments.steps)
        except torch.OutOfMemoryError:
            recorder.remark(setting.subject, out_of_memory())
            continue
        found[setting.subject] = speed
        record_speed(recorder, setting.subject, speed)
        if arguments.device == "cuda":
            short = found.get(f"{setting.name} {SHORT}")
            told = verdict(setting.name, setting.context, speed, short)
            if told:
                recorder.remark(setting.subject, told)
    return found


def _speed_of(setting: Setting, device: Device, steps: int) -> Speed:
    ours = Ours(setting.recipe, device.device)
    try:
        return measure("ours", ours.step, setting.rows, setting.recipe, device, steps)
    finally:
        ours.close()


def out_of_memory() -> str:
    """Return a message about free memory with a remedy."""
    free, total = torch.cuda.mem_get_info()
    return (
        f"does not fit: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free now; end what else "
        "is on this GPU (`nvidia-smi`), or measure shorter rows (--tokens 24576)"
    )


def traces(
    chosen: Sequence[Setting], found: dict[str, Speed], device: Device, recorder: Recorder
) -> None:
    """Trace a step of each setting and record its breakdown."""
    for setting in chosen:
        if setting.subject not in found:
            continue
        device.forget_memory()
        ours = Ours(setting.recipe, device.device)
        for _ in range(2):
            ours.step(setting.rows)
        try:
            taken = shares(partial(ours.step, setting.rows), device.device)
        except RuntimeError as error:
            recorder.remark(setting.subject, str(error))
            continue
        finally:
            ours.close()
        least = floors(setting.recipe.model, setting.rows, device.bandwidth, device.rate)
        step = found[setting.subject].step_milliseconds
        record_shares(recorder, setting.subject, taken, least, step)


def measured_device(arguments: argparse.Namespace, recorder: Recorder) -> Device:
    """Measure the device's copy bandwidth and matmul rate."""
    place = device_of(arguments)
    on_gpu = place.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    bandwidth, rate = device_rates(Clock(place, 10 if on_gpu else 2), torch.bfloat16)
    recorder.figure(name, "copy", bandwidth / 1e12, "TB/s")
    recorder.figure(name, "products", rate / 1e12, "TFLOP/s")
    return Device(place, peak_flops(name), bandwidth, rate)


def parse_arguments(description: str) -> argparse.Namespace:
    """Parse the command line of this script or of bench_gpu_transformers.py."""
    parser = part_parser(description)
    parser.add_argument("--models", nargs="+", choices=["small", "base"], default=["base", "small"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[SHORT, LONG])
    parser.add_argument("--tokens", type=int, help="of a row; 49,152, on a CPU 256")
    parser.add_argument("--microbatches", type=int, help="rows of a step; 12, on a CPU 2")
    parser.add_argument("--steps", type=int, help="steps that are timed; 5, on a CPU 1")
    parser.add_argument("--no-trace", action="store_true", help="speed alone")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    arguments.tokens = arguments.tokens or (49_152 if on_gpu else 256)
    arguments.microbatches = arguments.microbatches or (12 if on_gpu else 2)
    arguments.steps = arguments.steps or (5 if on_gpu else 1)
    if not on_gpu:
        arguments.models, arguments.contexts = ["small"], [128]
    return arguments


def main() -> int:
    """Measure and report; exit status 2 without a GPU."""
    arguments = parse_arguments(__doc__.splitlines()[0])
    recorder = Recorder("step", arguments.report)
    device = measured_device(arguments, recorder)
    torch.manual_seed(21)
    recorder.remark("implementations", str(kernels.backends(arguments.device)))
    recorder.remark("rows", f"{arguments.microbatches} of {arguments.tokens} tokens a step")
    recorder.remark("anchor", ANCHOR)
    chosen = settings(arguments)
    found = speeds(chosen, device, arguments, recorder)
    if not arguments.no_trace:
        traces(chosen, found, device, recorder)
    return 0 if len(found) == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
