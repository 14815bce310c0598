"""Training steps of Hugging Face models on a GPU: packed by `mmbert.pack`, and unpacked.

Base's sizes, weights in float32 under bfloat16 autocast as trainers have them, fused AdamW. The
unpacked models run with sdpa and, if it is installed, with flash-attn, by which transformers leaves
out the padding itself. First packed is compared with unpacked on texts of the batch that is timed;
where it is wrong, nothing is timed.

    python -m tests.benchmarks.bench_gpu_pack
    python -m tests.benchmarks.bench_gpu_pack --device cpu    # tiny, to try this script
"""

import gc
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mmbert
from mmbert.errors import ModelError
from mmbert_kernels.support.dispatch import is_installed
from tests.benchmarks.bench_gpu_step import Device
from tests.benchmarks.gpu_report.options import device_of, part_parser
from tests.benchmarks.gpu_report.records import Recorder
from tests.benchmarks.pack_pairs import (
    embedder,
    generate_pairs,
    pair_batches,
    ranking_loss,
    save_encoder,
)
from tests.support.gpu_step_models import has_flash_attention
from tests.support.live_training import (
    KINDS_OF_LENGTHS,
    MASKED_LM,
    MIXED,
    TASKS,
    TINY,
    Lane,
    Sizes,
    build,
    count_tokens,
    loss_of,
    make_batch,
)

SDPA, FLASH = "sdpa", "flash_attention_2"
BASE = Sizes(vocabulary=256_000, hidden=768, layers=22, heads=12, texts=256)
SENTENCES = "sentence-transformers"
PAIRS_OF_A_BATCH = 256
# Few, because the unpacked model computes them in float32 too.
CHECKED_TEXTS = 16
# What a packed step runs; their tests say whether its speed is that of the right thing.
OPERATIONS = (
    "layer norms", "embedding", "geglu", "rotary", "attention", "gather rows", "vocabulary head",
    "packed Hugging Face models",
)  # fmt: skip
# Between first losses in bfloat16, relative.
LOSS_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Setting:
    """A model and the batch that it trains on."""

    subject: str
    build: Callable[..., Any]
    """Called with `attention` and keys of ModernBertConfig."""
    loss: Callable[[Any, Any], Tensor]
    batch: Any
    checked: list[Any]
    """Batches for `mmbert.pack(…, validate=…)`."""
    has_sparse: bool
    """Whether the unpacked model can compute logits at labels alone."""


@dataclass(frozen=True)
class Bench:
    """Device, recorder and number of timed steps."""

    device: Device
    recorder: Recorder
    steps: int

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.device.type, torch.bfloat16)

    def measure(self, setting: Setting) -> bool:
        """Record the steps of every lane of a setting; return whether packed is right."""
        packed = setting.build(attention=SDPA)
        try:
            with self.autocast():
                for batch in setting.checked:
                    mmbert.pack(packed, validate=batch)
                    mmbert.unpack(packed)
                mmbert.pack(packed)
        except ModelError as error:
            self.recorder.remark(setting.subject, f"WRONG, not timed: {error.message}")
            return False
        ours = self._timed(setting, "packed", packed, None)
        del packed
        right = True
        for name, make in self._unpacked(setting):
            if ours is None:
                break
            theirs = self._timed(setting, name, make(), ours)
            right &= theirs is None or abs(theirs[1] / ours[1] - 1) <= LOSS_TOLERANCE
        return right

    def _unpacked(self, setting: Setting) -> Iterator[tuple[str, Callable[[], Any]]]:
        kinds = (SDPA, FLASH) if has_flash_attention() else (SDPA,)
        for attention in kinds:
            yield attention, partial(setting.build, attention=attention)
            if setting.has_sparse:
                sparse = partial(setting.build, attention=attention, sparse_prediction=True)
                yield f"{attention}, sparse_prediction", sparse

    def _timed(
        self, setting: Setting, name: str, model: Any, ours: tuple[float, float] | None
    ) -> tuple[float, float] | None:
        """Record a lane; return a step's seconds and the first loss, or None without memory."""
        subject = f"{setting.subject}, {name}"
        self.device.forget_memory()

        def loss(model: Any, batch: Any) -> Tensor:
            with self.autocast():
                return setting.loss(model, batch)

        try:
            lane = Lane(name, model, loss)
            first = lane.step(setting.batch).item()
            lane.step(setting.batch)
            seconds = median(self._seconds(lane, setting.batch) for _ in range(self.steps))
        except torch.OutOfMemoryError:
            self.recorder.remark(subject, "does not fit into memory")
            return None
        self.recorder.figure(subject, "step", 1e3 * seconds, "ms", OPERATIONS)
        self.recorder.figure(subject, "peak memory", self.device.peak_memory_gib(), "GiB")
        if ours is not None:
            times, off = seconds / ours[0], abs(first / ours[1] - 1)
            self.recorder.figure(subject, "as long as packed", times, "times", OPERATIONS)
            self.recorder.figure(subject, "loss off by", off, "", OPERATIONS)
            if not off <= LOSS_TOLERANCE:
                self.recorder.remark(subject, f"WRONG: losses {first} and, packed, {ours[1]}")
        return seconds, first

    def _seconds(self, lane: Lane, batch: Any) -> float:
        gc.collect()
        self.device.wait()
        begun = time.perf_counter()
        lane.step(batch)
        self.device.wait()
        return time.perf_counter() - begun


def model_settings(sizes: Sizes, device: torch.device) -> Iterator[Setting]:
    """Yield the models of transformers at each kind of lengths."""
    kinds = KINDS_OF_LENGTHS if device.type == "cuda" else (MIXED,)
    for task in TASKS:
        for kind in kinds:
            made = make_batch(task, kind, sizes, np.random.default_rng(21))
            batch = [{name: value.to(device) for name, value in each.items()} for each in made]
            real, padded = count_tokens(batch)

            def built(task: str = task, **keys: Any) -> Any:
                return build(task, sizes, **keys).to(device)

            subject = f"{task}, {kind} ({real:,} of {padded:,} tokens real)"
            few = [{name: value[:CHECKED_TEXTS] for name, value in each.items()} for each in batch]
            yield Setting(subject, built, loss_of, batch, few, task == MASKED_LM)


def sentence_settings(sizes: Sizes, device: torch.device, folder: Path) -> Iterator[Setting]:
    """Yield training on generated sentence pairs; `folder` receives the encoder."""
    count = PAIRS_OF_A_BATCH if device.type == "cuda" else sizes.texts
    pairs = generate_pairs(16 * count, sizes)
    save_encoder(folder, pairs, sizes, generated=True)
    lengths = [len(f"{first} {second}".split()) for first, second in pairs]
    for grouped, order in ((False, "random"), (True, "grouped by length")):
        batch = pair_batches(pairs, lengths, count, grouped=grouped)[0]
        texts = [[pair[side] for pair in batch[:CHECKED_TEXTS]] for side in (0, 1)]
        made = partial(embedder, folder, str(device))
        yield Setting(f"{SENTENCES}, {order}", made, ranking_loss, batch, texts, has_sparse=False)


def main() -> int:
    """Measure and report; exit status 1 if packed is wrong, 2 without a GPU."""
    arguments = part_parser(__doc__.splitlines()[0]).parse_args()
    place = device_of(arguments)
    on_gpu = place.type == "cuda"
    recorder = Recorder("pack", arguments.report)
    bench = Bench(Device(place, None, math.nan, math.nan), recorder, 5 if on_gpu else 1)
    sizes = BASE if on_gpu else TINY
    if not has_flash_attention():
        recorder.remark("flash-attn", "not installed: unpacked is measured with sdpa alone")
    wrong = sum(not bench.measure(setting) for setting in model_settings(sizes, place))
    if not is_installed(SENTENCES.replace("-", "_")):
        recorder.remark(SENTENCES, "not installed, not measured")
        return int(wrong > 0)
    with tempfile.TemporaryDirectory(prefix="gpu-report-pack-") as folder:
        settings = sentence_settings(sizes, place, Path(folder))
        wrong += sum(not bench.measure(setting) for setting in settings)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
