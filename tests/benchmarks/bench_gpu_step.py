"""The full training step of small and base on one GPU, against transformers' ModernBERT.

Rows of 49,152 tokens of documents of web-like lengths, 30% masked, contexts 1024 and 8192,
bfloat16, a vocabulary of 256,000; a step is several rows and the optimiser. Both train on the same
rows (see gpu_step_models.py). Printed: tokens per second, model-FLOPs utilisation (by the formula
that training logs and the planner share) of the nominal peak and of the product rate measured here,
peak memory, what was wanted; then each operation's device time against its floor, and which
operation holds the most above it. Reports nothing on a GPU unless the GPU tests have passed.

    make bench-gpu                                                    # tests, kernels, this
    python -m tests.benchmarks.bench_gpu_step --json step.json
    python -m tests.benchmarks.bench_gpu_step --device cpu            # tiny, to try this script
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.bench_kernels import Clock, device_rates
from tests.benchmarks.gpu_step_models import Ours, Transformers, has_flash_attention
from tests.benchmarks.gpu_step_shares import floors, held_by, shares
from tests.benchmarks.gpu_tests import refusal
from tests.benchmarks.packed_rows import document_lengths, packed_rows

import mmbert_kernels as kernels
from mmbert.data.rows import Row
from mmbert.recipe import Recipe, load_recipe
from mmbert.training.utilisation import peak_flops, training_flops

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
MASK_RATIO = 0.3
# Tokens per second that are wanted on an H200, and what the longer context must keep of the
# utilisation at the shorter one.
WANTED = {("base", 1024): 270_000.0, ("small", 1024): 900_000.0}
WANTED_SHARE, SHORT, LONG = 0.85, 1024, 8192
PADDED_BATCHES = (8, 16, 48)
# A model that a CPU trains in a second, to try this script.
TINY = (
    "model.vocab_size=512", "tokenizer.vocab_size=512", "model.hidden_size=64",
    "model.intermediate_size=64", "model.num_hidden_layers=4", "model.num_attention_heads=2",
)  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """One model's figures at one context."""

    who: str
    step_milliseconds: float
    tokens_per_second: float
    teraflops: float
    utilisation: float | None
    """Of the device's nominal peak; None where that is not known."""
    utilisation_of_measured: float
    peak_memory_gib: float


@dataclass(frozen=True)
class Device:
    """Where it runs and what that can do."""

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
    """The preset's own recipe at this context and mask ratio."""
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
    """Median of `steps` steps on `rows`, after two to warm up."""
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
        utilisation_of_measured=flops / taken / device.rate,
        peak_memory_gib=device.peak_memory_gib(),
    )


def measure_ours(
    recipe: Recipe, rows: Sequence[Row], device: Device, steps: int
) -> tuple[Speed, dict[str, float]]:
    """Our figures, and the time by operation of one more step."""
    device.forget_memory()
    ours = Ours(recipe, device.device)
    speed = measure("ours", ours.step, rows, recipe, device, steps)
    found = shares(lambda: ours.step(rows), device.device)
    ours.close()
    return speed, found


def measure_transformers(
    recipe: Recipe, context: int, rows: Sequence[Row], device: Device
) -> Speed | None:
    """transformers' figures in the fastest of the ways that fit into memory."""
    best = None
    for documents in (None,) if has_flash_attention() else PADDED_BATCHES:
        device.forget_memory()
        how = "packed, flash-attn" if documents is None else f"padded by {documents}, sdpa"
        try:
            theirs = Transformers(recipe, context, device.device, documents)
            speed = measure(f"transformers ({how})", theirs.step, rows, recipe, device, 1)
        except torch.OutOfMemoryError:
            continue
        if best is None or speed.tokens_per_second > best.tokens_per_second:
            best = speed
        del theirs
    return best


def verdict(name: str, context: int, speed: Speed, short: Speed | None) -> str:
    """What was wanted and whether it was reached."""
    wanted = WANTED.get((name, context))
    if wanted is not None:
        reached = speed.tokens_per_second >= wanted
        return f"wanted {wanted:,.0f} tokens/s: {'reached' if reached else 'MISSED'}"
    if context == LONG and short is not None:
        share = speed.teraflops / short.teraflops
        reached = share >= WANTED_SHARE
        return (
            f"{share:.0%} of the utilisation at {SHORT}, wanted {WANTED_SHARE:.0%}: "
            f"{'reached' if reached else 'MISSED'}"
        )
    return ""


def print_speed(name: str, context: int, speed: Speed, note: str) -> None:
    nominal = "-" if speed.utilisation is None else f"{speed.utilisation:.1%}"
    print(
        f"{name:6}{context:6}  {speed.who:38}{speed.tokens_per_second:12,.0f}"
        f"{speed.teraflops:9.2f}{nominal:>8}{speed.utilisation_of_measured:10.1%}"
        f"{speed.peak_memory_gib:9.1f}  {note}",
        flush=True,
    )


def print_shares(found: dict[str, float], least: dict[str, float], step: float | None) -> None:
    """`step`: milliseconds of a step that was not traced; None where it is not the device's."""
    total = sum(found.values())
    print(f"    {'operation':18}{'ms':>10}{'share':>8}{'floor ms':>10}{'floor/ms':>10}")
    for name, milliseconds in found.items():
        floor = least.get(name)
        told = f"{floor:10.2f}{floor / milliseconds:10.0%}" if floor and milliseconds else ""
        print(f"    {name:18}{milliseconds:10.2f}{milliseconds / total:8.1%}{told}")
    holder = held_by(found, least)
    above = found[holder] - least.get(holder, 0.0)
    print(f"    above the floors: {total - sum(least.values()):.2f} ms; most by {holder}:", end="")
    print(f" {above:.2f} ms")
    if step is None:
        return
    print(f"    the device computes in {total:.2f} of a step's {step:.2f} ms; in the rest it waits")
    print("    for the host or for memory: what CUDA graphs could bring at most", flush=True)


def run(arguments: argparse.Namespace, device: Device) -> list[dict[str, Any]]:
    """Measure every model at every context, print, and give the records for the JSON file."""
    tiny, records = arguments.device == "cpu", []
    print(f"{'model':6}{'context':>7} {'':38}{'tokens/s':>13}{'TFLOP/s':>9}", end="")
    print(f"{'of peak':>8}{'of gemm':>10}{'GiB':>9}")
    for name in arguments.models:
        short = None
        for context in arguments.contexts:
            recipe = recipe_of(name, context, arguments.tokens, tiny=tiny)
            rows = packed_rows(
                arguments.microbatches,
                tokens=arguments.tokens,
                context=context,
                mask_ratio=MASK_RATIO,
                vocabulary=recipe.model.vocab_size or 0,
            )
            ours, found = measure_ours(recipe, rows, device, arguments.steps)
            short = ours if context == SHORT else short
            note = "" if tiny else verdict(name, context, ours, short)
            print_speed(name, context, ours, note)
            theirs = measure_transformers(recipe, context, rows, device)
            if theirs is None:
                print(f"{name:6}{context:6}  transformers: no way of running it fits into memory")
            else:
                ratio = ours.tokens_per_second / theirs.tokens_per_second
                print_speed(name, context, theirs, f"ours is {ratio:.2f} times as fast")
            least = floors(recipe.model, rows, device.bandwidth, device.rate)
            print_shares(found, least, None if tiny else ours.step_milliseconds)
            squares = sum(float((document_lengths(row) ** 2).sum()) for row in rows)
            records.append(
                {
                    "model": name,
                    "context": context,
                    "mean_length_of_a_tokens_document": squares / sum(row.tokens for row in rows),
                    "ours": asdict(ours),
                    "transformers": None if theirs is None else asdict(theirs),
                    "verdict": note,
                    "milliseconds": found,
                    "floor_milliseconds": least,
                    "held_by": held_by(found, least),
                }
            )
    return records


def main() -> int:
    """Measure and report; 2 without a GPU, 1 unless the GPU tests have passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", nargs="+", choices=["small", "base"], default=["small", "base"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[SHORT, LONG])
    parser.add_argument("--tokens", type=int, help="of a row; 49,152, on a CPU 2,048")
    parser.add_argument("--microbatches", type=int, help="rows of a step; 12, on a CPU 2")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    arguments.tokens = arguments.tokens or (49_152 if on_gpu else 2048)
    arguments.microbatches = arguments.microbatches or (12 if on_gpu else 2)
    if on_gpu:
        problem = refusal()
        if problem is not None:
            print(problem.text)
            return problem.status
    torch.manual_seed(21)
    place = torch.device(arguments.device, 0 if on_gpu else None)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    dtype = torch.bfloat16
    bandwidth, rate = device_rates(Clock(place, 10 if on_gpu else 2), dtype)
    device = Device(place, peak_flops(name), bandwidth, rate)
    print(f"{name}, torch {torch.__version__}, {dtype}, {arguments.microbatches} rows a step")
    print(f"copy {bandwidth / 1e12:.3f} TB/s, products {rate / 1e12:.2f} TFLOP/s")
    print(f"implementations: {kernels.backends(arguments.device)}")
    if not on_gpu:
        print("A tiny model on a CPU, to try this script: these figures say nothing about a GPU.")
    records = run(arguments, device)
    if arguments.json is not None:
        about = {
            "device": name,
            "torch": torch.__version__,
            "row_tokens": arguments.tokens,
            "rows": arguments.microbatches,
            "copy_bytes_per_second": bandwidth,
            "product_flops": rate,
            "implementations": kernels.backends(arguments.device),
        }
        arguments.json.write_text(json.dumps({**about, "results": records}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
