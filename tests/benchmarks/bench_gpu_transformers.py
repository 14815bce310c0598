"""Training speed of transformers' ModernBERT, on the rows of bench_gpu_step.py.

Measured in the fastest way that fits into memory: packed with flash-attn if installed, otherwise
padded with sdpa in batches of several sizes. If the same report has measured our step, its ratio is
recorded as well.

    python -m tests.benchmarks.bench_gpu_transformers
    python -m tests.benchmarks.bench_gpu_transformers --device cpu    # tiny, to try this script
"""

import argparse
import sys
from pathlib import Path

import torch

from tests.benchmarks.bench_gpu_step import (
    OPERATIONS,
    Device,
    Setting,
    Speed,
    measure,
    measured_device,
    parse_arguments,
    record_speed,
    settings,
)
from tests.benchmarks.gpu_report.records import Recorder, figures
from tests.support.gpu_step_models import Transformers, has_flash_attention

PADDED_BATCHES = (16, 48, 8)


def tried(setting: Setting, documents: int | None, device: Device) -> Speed | None:
    """Measure the speed with this batch size; None if it does not fit into memory."""
    device.forget_memory()
    how = "packed, flash-attn" if documents is None else f"padded by {documents}, sdpa"
    try:
        theirs = Transformers(setting.recipe, setting.context, device.device, documents)
        return measure(how, theirs.step, setting.rows, setting.recipe, device, 1)
    except torch.OutOfMemoryError:
        return None


def our_speed(report: Path | None, setting: Setting) -> float | None:
    """Return the report's tokens per second of our step in the same setting."""
    if report is None:
        return None
    found = [each for each in figures(report, "step") if each.subject == setting.subject]
    return next((float(each.value) for each in found if each.quantity == "tokens"), None)


def compare(
    setting: Setting, device: Device, arguments: argparse.Namespace, recorder: Recorder
) -> None:
    """Record the speed of every batch size, and ours relative to the fastest."""
    best: Speed | None = None
    padded = PADDED_BATCHES if arguments.device == "cuda" else PADDED_BATCHES[:1]
    for documents in (None,) if has_flash_attention() else padded:
        speed = tried(setting, documents, device)
        if speed is None:
            recorder.remark(setting.subject, f"batches of {documents}: do not fit into memory")
            continue
        record_speed(recorder, f"{setting.subject}, {speed.who}", speed, operations=())
        if best is None or speed.tokens_per_second > best.tokens_per_second:
            best = speed
    ours = our_speed(arguments.report, setting)
    if ours is not None and best is not None:
        ratio = ours / best.tokens_per_second
        subject = f"{setting.subject}, {best.who}"
        recorder.figure(subject, "ours", ratio, "times", OPERATIONS)


def main() -> int:
    """Measure and report; exit status 2 without a GPU."""
    arguments = parse_arguments(__doc__.splitlines()[0])
    recorder = Recorder("transformers", arguments.report)
    device = measured_device(arguments, recorder)
    torch.manual_seed(21)
    for setting in settings(arguments):
        compare(setting, device, arguments, recorder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
