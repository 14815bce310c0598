"""Parts of the GPU report, most important first, with their shares of its time."""

import sys
from pathlib import Path

from tests.benchmarks.gpu_report.supervisor import Part

PARTS = (
    "machine", "correctness", "step", "kernels", "run", "pack", "experiments", "transformers",
)  # fmt: skip


def report_parts(device: str, data: Path, names: tuple[str, ...] = PARTS) -> list[Part]:
    """Return the parts with these names; `data`: folder with the real run's shards."""
    common = ("--device", device)

    def module(name: str, *more: str) -> tuple[str, ...]:
        return (sys.executable, "-m", f"tests.benchmarks.{name}", *common, *more)

    everything = (
        Part("machine", "Machine", module("gpu_report.machine"), 1, 40, needs_gpu=False),
        Part("correctness", "Correctness", module("gpu_report.correctness"), 7, 240, 10),
        Part("step", "Our training step", module("bench_gpu_step"), 6, 240, 10),
        Part("kernels", "Kernels against their floors", module("bench_kernels"), 4, 180, 10),
        Part("run", "A real run", module("gpu_report.real_run", "--data", str(data)), 5, 120, 20),
        Part("pack", "Packed Hugging Face models", module("bench_gpu_pack"), 4, 120, 10),
        Part("experiments", "Experiments", module("gpu_report.experiments"), 3, 120, 10),
        Part("transformers", "transformers", module("bench_gpu_transformers"), 4, 180, 10),
    )
    return [part for part in everything if part.name in names]
