"""Every kernel against its byte or FLOP floor, PyTorch eager, torch.compile and what is installed.

It measures the device's own copy bandwidth and bf16 product rate, and from them each operation's
floor: the bytes that it must move (each argument read and each result written once) or the products
that it must make. Times are medians over repetitions, with the L2 cache emptied before each; "both"
is forward and backward together. Shapes are those of mmBERT base: 49,152 tokens, 14,746 masked.
Reports nothing on a GPU unless the GPU tests have passed on these sources.

    make bench-gpu                                              # tests, this, the full step
    python -m tests.benchmarks.bench_kernels --json kernels.json
    python -m tests.benchmarks.bench_kernels --device cpu --tokens 2048 --vocabulary 32768
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.gpu_tests import refusal
from tests.benchmarks.kernel_cases import Case, Function, cases
from torch import Tensor

import mmbert_kernels as kernels

# What is wanted on an H200: of the measured copy bandwidth where bytes are the floor, and of the
# vocabulary head at 14,746 × 768 × 256,000.
WANTED_SHARE, WANTED_HEAD_MILLISECONDS = 0.8, 35.0
HEAD = "linear cross-entropy"
Times = tuple[float, float]


@dataclass(frozen=True)
class Clock:
    """Times calls on a device."""

    device: torch.device
    repetitions: int

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Median time of a call, after warming up."""
        for _ in range(3):
            call()
        times = []
        on_gpu = self.device.type == "cuda"
        scratch = torch.empty(1 << 28 if on_gpu else 1, dtype=torch.uint8, device=self.device)
        for _ in range(self.repetitions):
            scratch.zero_()
            if on_gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                begun = time.perf_counter()
                call()
                times.append((time.perf_counter() - begun) * 1e3)
        return statistics.median(times)

    def forward_and_both(self, function: Function, case: Case) -> Times:
        """Milliseconds of the forward pass, and of forward and backward."""
        leaves = [each for each in case.arguments if each.requires_grad]

        def forward() -> tuple[Tensor, ...]:
            out = function(*case.arguments)
            return out if isinstance(out, tuple) else (out,)

        upstream = [torch.ones_like(out) for out in forward()]
        both = self.milliseconds(lambda: torch.autograd.grad(forward(), leaves, upstream))
        return self.milliseconds(forward), both


@dataclass
class Line:
    """An operation's figures, in milliseconds."""

    name: str
    floor: float
    by_bytes: bool
    ours: Times
    eager: Times | None = None
    compiled: Times | None = None
    public: dict[str, Times | None] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of the time of both passes, what the floor explains."""
        return self.floor / self.ours[1]

    def verdict(self, full_size: bool) -> str:
        """What was wanted on a GPU and whether it was reached."""
        if self.by_bytes:
            reached = self.share >= WANTED_SHARE
            return f"wanted {WANTED_SHARE:.0%}: {'reached' if reached else 'MISSED'}"
        if self.name == HEAD and full_size:
            reached = self.ours[1] <= WANTED_HEAD_MILLISECONDS
            return f"wanted {WANTED_HEAD_MILLISECONDS:.0f} ms: {'reached' if reached else 'MISSED'}"
        return ""

    def text(self) -> str:
        """The line of the table."""
        fastest = min(
            (times for times in self.public.items() if times[1] is not None),
            key=lambda times: times[1][1],  # type: ignore[index]
            default=("", None),
        )
        times = (self.eager, self.compiled, fastest[1])
        rivals = "".join(f"{t[0]:8.3f}{t[1]:8.3f}" if t else f"{'-':>16}" for t in times)
        return (
            f"{self.name:24}{self.floor:8.3f}{self.ours[0]:8.3f}{self.ours[1]:8.3f}"
            f"{self.share:7.0%}{rivals} {fastest[0]}"
        )


def device_rates(clock: Clock, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes per second of a copy (read and written) and FLOP per second of a product."""
    on_gpu = clock.device.type == "cuda"
    source = torch.empty(1 << (30 if on_gpu else 26), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copy = 2e3 * source.numel() / clock.milliseconds(lambda: target.copy_(source))
    side = 8192 if on_gpu else 256
    left = torch.randn(side, side, device=clock.device).to(dtype)
    return copy, 2e3 * side**3 / clock.milliseconds(lambda: left @ left)


def tried(clock: Clock, rival: Function, case: Case) -> Times | None:
    """A rival's times; None if it needs too much memory or does not compile."""
    try:
        return clock.forward_and_both(rival, case)
    except (torch.OutOfMemoryError, torch._dynamo.exc.BackendCompilerFailed) as error:
        print(f"    ({type(error).__name__})")
        return None


def measure(clock: Clock, case: Case, bandwidth: float, rate: float, others: bool) -> Line:
    """Time an operation and, with `others`, its rivals."""
    by_bytes = case.both_bytes / bandwidth >= case.both_flops / rate
    floor = 1e3 * max(case.both_bytes / bandwidth, case.both_flops / rate)
    line = Line(case.name, floor, by_bytes, clock.forward_and_both(case.ours, case))
    if others:
        line.eager = tried(clock, case.eager, case)
        line.compiled = tried(clock, torch.compile(case.eager, dynamic=False), case)
        line.public = {name: tried(clock, rival, case) for name, rival in case.public.items()}
    return line


def measure_optimizer(clock: Clock, bandwidth: float, count: int, others: bool) -> Line:
    """StableAdamW on `count` parameters in 140 tensors, against PyTorch's fused AdamW (which needs
    no RMS by tensor) and optimi's StableAdamW."""
    tensors = 140
    parameter, gradient, m, v = (torch.zeros(count, device=clock.device) for _ in range(4))
    bounds = [count * i // tensors for i in range(tensors + 1)]
    segments = kernels.Segments(tuple(bounds[:-1]), tuple(bounds[1:]))
    decay = torch.zeros(tensors, device=clock.device)

    def step() -> None:
        sums = kernels.stable_adamw_sums(gradient, v, segments, betas=(0.9, 0.95), step=5, eps=1e-8)
        kernels.stable_adamw_apply(
            parameter,
            gradient,
            m,
            v,
            segments,
            sums,
            betas=(0.9, 0.95),
            step=5,
            learning_rate=1e-3,
            peak_learning_rate=1e-3,
            weight_decay=decay,
            eps=1e-8,
        )

    # 2 arrays read by the first pass, 4 read and 3 written by the second
    floor = 1e3 * 36 * count / bandwidth
    ours = clock.milliseconds(step)
    line = Line("stable adamw", floor, True, (0.0, ours))
    if others:
        line.public = {
            name: (0.0, clock.milliseconds(optimizer.step))
            for name, optimizer in optimizers(gradient, bounds).items()
        }
    return line


def optimizers(gradient: Tensor, bounds: list[int]) -> dict[str, Any]:
    """The installed optimisers over tensors of the same sizes."""

    def parameters() -> list[Tensor]:
        made = []
        for start, end in pairwise(bounds):
            made.append(torch.zeros(end - start, device=gradient.device, requires_grad=True))
            made[-1].grad = gradient[start:end]
        return made

    found: dict[str, Any] = {"fused AdamW": torch.optim.AdamW(parameters(), fused=True)}
    try:
        from optimi import StableAdamW

        found["optimi"] = StableAdamW(parameters(), lr=1e-3)
    except ImportError:
        pass
    return found


def report(clock: Clock, dtype: torch.dtype, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and print the table; the figures for the JSON file."""
    on_gpu = clock.device.type == "cuda"
    bandwidth, rate = device_rates(clock, dtype)
    others = not arguments.only_ours
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(f"{name}, torch {torch.__version__}, {dtype}, {arguments.tokens} tokens")
    print(f"copy {bandwidth / 1e12:.3f} TB/s, products {rate / 1e12:.2f} TFLOP/s")
    print(f"implementations: {kernels.backends(clock.device.type)}")
    if not on_gpu:
        print("On a CPU, to try this script: these figures say nothing about a GPU.")
    print("milliseconds, forward and both; floor is of both; share = floor / ours, both")
    print(f"{'operation':24}{'floor':>8}{'ours':>16}{'share':>7}{'eager':>16}", end="")
    print(f"{'compiled':>16}{'public':>16}")
    full_size = (arguments.tokens, arguments.vocabulary) == (49_152, 256_000)
    lines = []
    for case in cases(clock.device, dtype, arguments.tokens, arguments.vocabulary):
        lines.append(measure(clock, case, bandwidth, rate, others))
        print(lines[-1].text(), lines[-1].verdict(full_size) if on_gpu else "", flush=True)
    lines.append(measure_optimizer(clock, bandwidth, arguments.parameters, others))
    print(lines[-1].text(), lines[-1].verdict(full_size) if on_gpu else "", flush=True)
    return {
        "device": name,
        "torch": torch.__version__,
        "tokens": arguments.tokens,
        "vocabulary": arguments.vocabulary,
        "copy_bytes_per_second": bandwidth,
        "product_flops": rate,
        "implementations": kernels.backends(clock.device.type),
        "milliseconds": [{**vars(line), "share": line.share} for line in lines],
    }


def main() -> int:
    """Measure and report; 2 without a GPU, 1 unless the GPU tests have passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tokens", type=int, default=49_152)
    parser.add_argument("--vocabulary", type=int, default=256_000)
    parser.add_argument("--parameters", type=int, default=1 << 26, help="that the optimiser has")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--only-ours", action="store_true", help="measure no other implementation")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.manual_seed(21)
    if arguments.device == "cuda":
        problem = refusal()
        if problem is not None:
            print(problem.text)
            return problem.status
    clock = Clock(torch.device(arguments.device), arguments.repetitions)
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    figures = report(clock, dtype, arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
