"""Training steps of Hugging Face models, packed by `mmbert.pack` and unpacked, on a CPU.

The same weights, batches, threads and optimizer (fused AdamW), padded to the longest text of a
batch, sdpa, float32. In every round each model takes the same new batch, in alternating order; a
ratio is the median over the rounds, its lowest and highest in brackets. CPU seconds are those of
the process: with OMP_WAIT_POLICY=passive, which is set here, they count no waiting for a thread,
and mean something on a machine that others use too. Losses are compared at every step.

    python -m tests.benchmarks.bench_pack                      # everything, some 20 minutes
    python -m tests.benchmarks.bench_pack --parts encoder classifier "masked LM" --lengths mixed
    python -m tests.benchmarks.bench_pack --parts sentence-transformers --pairs pairs.jsonl
"""

import argparse
import gc
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

import mmbert
from tests.benchmarks.pack_pairs import (
    Pair,
    embedder,
    generate_pairs,
    pair_batches,
    ranking_loss,
    read_pairs,
    save_encoder,
    tokenized,
)
from tests.support.live_training import (
    EQUAL,
    KINDS_OF_LENGTHS,
    MASKED_LM,
    MIXED,
    PAIRS,
    TASKS,
    TINY,
    Lane,
    Sizes,
    build,
    count_tokens,
    kept_bytes,
    make_batch,
)

PASSIVE = {"OMP_WAIT_POLICY": "passive"}
SENTENCES = "sentence-transformers"
PACKED, UNPACKED, SPARSE = "packed", "unpacked", "unpacked, sparse_prediction"
# Of the packed model, by CPU seconds; at other lengths than mixed none for sparse_prediction.
WANTED = {EQUAL: 0.95, PAIRS: 2.0, MIXED: 3.0}
WANTED_OF_PAIRS = {"random": 2.0, "grouped by length": 1.3}
WANTED_OF_KEPT = 3.0
# Between steps from the same weights; each model then trains on with its own rounding.
LOSS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Seconds:
    """Time of one model's part of a round."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Race:
    """Times of all models by name, a `Seconds` for each round."""

    times: dict[str, list[Seconds]]
    loss_difference: float
    """The largest between two models at a step, relative."""

    def ratios(self, name: str, clock: str) -> list[float]:
        """Return, by round, how many times as long as packed the model `name` took."""
        return [
            getattr(other, clock) / getattr(ours, clock)
            for other, ours in zip(self.times[name], self.times[PACKED], strict=True)
        ]

    def seconds(self, name: str, clock: str) -> float:
        """Return the median of the rounds."""
        return median(getattr(taken, clock) for taken in self.times[name])


def race(lanes: Sequence[Lane], rounds: Sequence[Sequence[Any]]) -> Race:
    """Let all lanes take every batch of every round; the first round is not measured."""
    times: dict[str, list[Seconds]] = {lane.name: [] for lane in lanes}
    largest, order = 0.0, list(lanes)
    for number, batches in enumerate(rounds):
        taken = {lane.name: Seconds(0.0, 0.0) for lane in lanes}
        for batch in batches:
            losses = []
            for lane in order:
                gc.collect()
                cpu, wall = time.process_time(), time.perf_counter()
                losses.append(lane.step(batch).item())
                before = taken[lane.name]
                taken[lane.name] = Seconds(
                    before.cpu + time.process_time() - cpu,
                    before.wall + time.perf_counter() - wall,
                )
            order.reverse()
            largest = max(largest, max(losses) / min(losses) - 1)
        if number:
            for name, found in taken.items():
                times[name].append(found)
    if not largest <= LOSS_TOLERANCE:
        raise RuntimeError(f"packed and unpacked losses differ by {largest:.1e}, relative")
    return Race(times, largest)


def with_range(values: Sequence[float]) -> str:
    """Format ratios as their median (lowest-highest)."""
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def told(found: Race, name: str, wanted: float | None) -> tuple[str, bool]:
    """Return a line on the model `name` against packed, and whether what is wanted was missed."""
    by_cpu = found.ratios(name, "cpu")
    missed = wanted is not None and median(by_cpu) < wanted
    aim = "" if wanted is None else f", wanted {wanted:g}: {'MISSED' if missed else 'reached'}"
    seconds = ", ".join(
        f"{clock} {found.seconds(name, clock):.2f} / {found.seconds(PACKED, clock):.2f} s"
        for clock in ("cpu", "wall")
    )
    return (
        f"  {name} / packed: {seconds}; ratio by CPU {with_range(by_cpu)}, "
        f"by wall {with_range(found.ratios(name, 'wall'))}{aim}",
        missed,
    )


def make_lanes(task: str, sizes: Sizes) -> list[Lane]:
    """Return the models of a task, from the same weights."""
    lanes = [
        Lane(PACKED, mmbert.pack(build(task, sizes))),
        Lane(UNPACKED, build(task, sizes)),
    ]
    if task == MASKED_LM:
        lanes.append(Lane(SPARSE, build(task, sizes, sparse_prediction=True)))
    return lanes


def measure_task(task: str, kind: str, sizes: Sizes, rounds: int) -> int:
    """Measure and print one task at one kind of lengths; return how many aims were missed."""
    lanes = make_lanes(task, sizes)
    generator = np.random.default_rng(21)
    batches = [make_batch(task, kind, sizes, generator) for _ in range(rounds + 1)]
    counts = [count_tokens(batch) for batch in batches[1:]]
    real, padded = (sum(column) / rounds for column in zip(*counts, strict=True))
    kept = {lane.name: [kept_bytes(lane, batch) for batch in batches[1:]] for lane in lanes}
    found = race(lanes, [[batch] for batch in batches])
    print(
        f"{task}, {kind}: {real:,.0f} real of {padded:,.0f} tokens a step (mean); losses within "
        f"{found.loss_difference:.0e}"
    )
    missed = 0
    for lane in lanes[1:]:
        # Of a masked LM the sparse one is the measure, and only at mixed lengths.
        judged = task != MASKED_LM or (lane.name == SPARSE and kind == MIXED)
        line, below = told(found, lane.name, WANTED[kind] if judged else None)
        ratios = [a / b for a, b in zip(kept[lane.name], kept[PACKED], strict=True)]
        sizes_kept = " / ".join(f"{median(kept[n]) / 2**20:,.0f}" for n in (lane.name, PACKED))
        print(f"{line}\n    kept for backward: {sizes_kept} MiB, {with_range(ratios)} times")
        missed += below
        if kind == MIXED and lane.name == UNPACKED:
            missed += median(ratios) < WANTED_OF_KEPT
            verdict = "MISSED" if median(ratios) < WANTED_OF_KEPT else "reached"
            print(f"    kept: wanted {WANTED_OF_KEPT:g}: {verdict}")
    sys.stdout.flush()
    return missed


def measure_sentences(
    pairs: Sequence[Pair], sizes: Sizes, arguments: argparse.Namespace, *, generated: bool
) -> int:
    """Measure and print training on sentence pairs; return how many aims were missed."""
    missed = 0
    with tempfile.TemporaryDirectory(prefix="bench-pack-") as name:
        folder = Path(name)
        save_encoder(folder, pairs, sizes, generated=generated)
        model = embedder(folder)
        texts = tokenized(model, [text for pair in pairs for text in pair])
        lengths = texts["attention_mask"].sum(1).view(-1, 2).sum(1).tolist()
        for grouped, (order, wanted) in zip((False, True), WANTED_OF_PAIRS.items(), strict=True):
            lanes = [
                Lane(PACKED, mmbert.pack(embedder(folder)), ranking_loss),
                Lane(UNPACKED, embedder(folder), ranking_loss),
            ]
            batches = pair_batches(pairs, lengths, arguments.batch, grouped=grouped)
            share = real_share(model, batches)
            steps = min(arguments.steps or len(batches), len(batches) // arguments.rounds)
            if not steps:
                raise SystemExit(f"{len(pairs)} pairs are no {arguments.rounds} rounds of batches")
            rounds = [batches[n * steps : (n + 1) * steps] for n in range(arguments.rounds)]
            found = race(lanes, [batches[-1:], *rounds])
            print(
                f"{SENTENCES}, {order} batches of {arguments.batch} pairs, {steps} a round: "
                f"{share:.0%} of the tokens real; losses within {found.loss_difference:.0e}"
            )
            line, below = told(found, UNPACKED, wanted)
            print(line, flush=True)
            missed += below
    return missed


def real_share(model: Any, batches: Sequence[Sequence[Pair]]) -> float:
    """Return the share of real tokens in the batches as they are padded."""
    masks = [
        tokenized(model, [pair[side] for pair in batch])["attention_mask"]
        for batch in batches
        for side in (0, 1)
    ]
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = [*TASKS, SENTENCES]
    parser.add_argument("--parts", nargs="+", choices=everything, default=everything)
    parser.add_argument(
        "--lengths", nargs="+", choices=KINDS_OF_LENGTHS, default=list(KINDS_OF_LENGTHS)
    )
    parser.add_argument("--pairs", type=Path, help="JSON lines with anchor and positive")
    parser.add_argument("--batch", type=int, default=64, help="pairs of a batch")
    parser.add_argument("--steps", type=int, help="batches of pairs a round (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try this script")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if an aim was missed."""
    chosen = parse_arguments(arguments)
    torch.set_num_threads(chosen.threads)
    transformers.utils.logging.disable_progress_bar()
    sizes = TINY if chosen.tiny else Sizes()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {chosen.threads} threads"
        f" ({os.environ.get('OMP_WAIT_POLICY', 'waiting actively')}), float32;"
        f" torch {torch.__version__}, transformers {transformers.__version__},"
        f" sentence-transformers {version('sentence-transformers')};"
        f" d {sizes.hidden}, f {sizes.intermediate},"
        f" {sizes.layers} layers, {sizes.heads} heads, vocabulary {sizes.vocabulary},"
        f" {sizes.texts} texts a batch; median of {chosen.rounds} rounds (lowest-highest)",
        flush=True,
    )
    missed = sum(
        measure_task(task, kind, sizes, chosen.rounds)
        for task in TASKS
        if task in chosen.parts
        for kind in chosen.lengths
    )
    if SENTENCES in chosen.parts:
        generated = chosen.pairs is None
        pairs = generate_pairs(2000, sizes) if generated else read_pairs(chosen.pairs)
        origin = "generated, with the lengths of verses" if generated else f"of {chosen.pairs}"
        print(f"{len(pairs):,} pairs, {origin}")
        missed += measure_sentences(pairs, sizes, chosen, generated=generated)
    return int(missed > 0)


def run_passively() -> int:
    """Run `main` in a process whose threads do not spin while they wait.

    OpenMP reads the policy when torch loads it.
    """
    if all(os.environ.get(name) == value for name, value in PASSIVE.items()):
        return main()
    command = [sys.executable, "-m", "tests.benchmarks.bench_pack", *sys.argv[1:]]
    os.execve(sys.executable, command, os.environ | PASSIVE)


if __name__ == "__main__":
    sys.exit(run_passively())
