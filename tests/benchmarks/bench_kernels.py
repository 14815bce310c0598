"""Kernel times compared with their roofline, PyTorch eager, torch.compile and other packages.

The device's copy bandwidth and bf16 matmul rate are measured, and from them each operation's floor:
the time to move its bytes (each argument read and each result written once) or to compute its
products. Times are medians over repetitions, with the L2 cache flushed before each; "both" is
forward and backward together. Shapes are those of mmBERT base: 49,152 tokens, 14,746 masked. Our
kernels run first, then the others, torch.compile last, which takes longest.

Part of the GPU report (make gpu-report); alone:

    python -m tests.benchmarks.bench_kernels
    python -m tests.benchmarks.bench_kernels --only-ours
    python -m tests.benchmarks.bench_kernels --device cpu --tokens 2048 --vocabulary 32768
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import mmbert_kernels as kernels
from tests.benchmarks.gpu_report.options import device_of, part_parser
from tests.benchmarks.gpu_report.records import Recorder
from tests.benchmarks.kernel_cases import benchmarks
from tests.kernels.case import Benchmark, Function
from tests.support.gpu_files import report_name

# Targets on an H200: fraction of the measured copy bandwidth where bytes are the floor, and time of
# the vocabulary head at 14,746 × 768 × 256,000.
WANTED_SHARE, WANTED_HEAD_MILLISECONDS = 0.8, 35.0
HEAD = "linear cross-entropy"
OPTIMIZER = "stable adamw"
Times = tuple[float, float]


@dataclass(frozen=True)
class Clock:
    """Measures the time of calls on a device."""

    device: torch.device
    repetitions: int

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Return the median time of a call, after warm-up."""
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

    def forward_and_both(self, function: Function, case: Benchmark) -> Times:
        """Return milliseconds of the forward pass, and of forward and backward."""
        leaves = [each for each in case.arguments if each.requires_grad]

        def forward() -> tuple[Tensor, ...]:
            out = function(*case.arguments)
            return out if isinstance(out, tuple) else (out,)

        upstream = [torch.ones_like(out) for out in forward()]
        both = self.milliseconds(lambda: torch.autograd.grad(forward(), leaves, upstream))
        return self.milliseconds(forward), both


def verdict(name: str, by_bytes: bool, floor: float, both: float, full_size: bool) -> str:
    """Return the target on an H200 and whether it was reached; "" if there is none."""
    if by_bytes:
        reached = floor / both >= WANTED_SHARE
        return (
            f"wanted {WANTED_SHARE:.0%} of the floor's speed: {'reached' if reached else 'MISSED'}"
        )
    if name == HEAD and full_size:
        reached = both <= WANTED_HEAD_MILLISECONDS
        return f"wanted {WANTED_HEAD_MILLISECONDS:.0f} ms: {'reached' if reached else 'MISSED'}"
    return ""


def device_rates(clock: Clock, dtype: torch.dtype) -> tuple[float, float]:
    """Measure bytes per second of a copy (read and written) and FLOP per second of a matmul."""
    on_gpu = clock.device.type == "cuda"
    source = torch.empty(1 << (30 if on_gpu else 26), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copy = 2e3 * source.numel() / clock.milliseconds(lambda: target.copy_(source))
    side = 8192 if on_gpu else 256
    left = torch.randn(side, side, device=clock.device).to(dtype)
    return copy, 2e3 * side**3 / clock.milliseconds(lambda: left @ left)


@dataclass(frozen=True)
class Bench:
    """Measures and records benchmarks on one device."""

    clock: Clock
    recorder: Recorder
    bandwidth: float
    rate: float
    full_size: bool
    """Whether the shapes are base's, for which there are targets."""

    def ours(self, operation: str, case: Benchmark) -> None:
        """Record our times, floor and verdict."""
        by_bytes = case.both_bytes / self.bandwidth >= case.both_flops / self.rate
        floor = 1e3 * max(case.both_bytes / self.bandwidth, case.both_flops / self.rate)
        forward, both = self.clock.forward_and_both(case.ours, case)
        self.record_ours(operation, case.name, floor, forward, both, by_bytes)

    def record_ours(
        self,
        operation: str,
        name: str,
        floor: float,
        forward: float | None,
        both: float,
        by_bytes: bool,
    ) -> None:
        verified_by = (report_name(operation),)
        self.recorder.figure(name, "floor", floor, "ms")
        if forward is not None:
            self.recorder.figure(name, "forward", forward, "ms", verified_by)
        self.recorder.figure(name, "both", both, "ms", verified_by)
        self.recorder.figure(name, "floor / both", floor / both, "", verified_by)
        message = verdict(name, by_bytes, floor, both, self.full_size)
        if message and self.clock.device.type == "cuda":
            self.recorder.remark(name, message)

    def rival(self, case: Benchmark, name: str, function: Function) -> None:
        """Record another implementation's time, unless it runs out of memory or cannot compile."""
        try:
            _, both = self.clock.forward_and_both(function, case)
        except (torch.OutOfMemoryError, torch._dynamo.exc.BackendCompilerFailed) as error:
            self.recorder.remark(case.name, f"{name}: {type(error).__name__}")
            return
        self.recorder.figure(case.name, f"{name}, both", both, "ms")

    def rivals(self, _: str, case: Benchmark) -> None:
        """Record PyTorch eager and the installed packages."""
        self.rival(case, "eager", case.eager)
        for name, function in case.public.items():
            self.rival(case, name, function)

    def compiled(self, _: str, case: Benchmark) -> None:
        """Record torch.compile of the eager formula."""
        self.rival(case, "compiled", torch.compile(case.eager, dynamic=False))


def measure_optimizer(bench: Bench, count: int, others: bool) -> None:
    """Measure StableAdamW on `count` parameters in 140 tensors.

    Compared with PyTorch's fused AdamW, which needs no RMS per tensor, and optimi's StableAdamW.
    """
    clock = bench.clock
    tensors = 140
    parameter, gradient, m, v = (torch.zeros(count, device=clock.device) for _ in range(4))
    bounds = [count * i // tensors for i in range(tensors + 1)]
    spans = kernels.TensorSpans(tuple(bounds[:-1]), tuple(bounds[1:]))
    decay = torch.zeros(tensors, device=clock.device)
    factors = torch.ones(tensors, dtype=torch.float64, device=clock.device)

    def step() -> None:
        sums = kernels.stable_adamw_sums(gradient, v, spans, betas=(0.9, 0.95), step=5, eps=1e-8)
        kernels.stable_adamw_apply(
            parameter,
            gradient,
            m,
            v,
            spans,
            sums,
            betas=(0.9, 0.95),
            step=5,
            learning_rate=1e-3,
            peak_learning_rate=1e-3,
            rate_factors=factors,
            weight_decay=decay,
            eps=1e-8,
        )

    # 2 arrays read by the first pass, 4 read and 3 written by the second
    floor = 1e3 * 36 * count / bench.bandwidth
    bench.record_ours(
        "stable_adamw", OPTIMIZER, floor, None, clock.milliseconds(step), by_bytes=True
    )
    if others:
        for name, optimizer in optimizers(gradient, bounds).items():
            taken = clock.milliseconds(optimizer.step)
            bench.recorder.figure(OPTIMIZER, f"{name}, both", taken, "ms")


def optimizers(gradient: Tensor, bounds: list[int]) -> dict[str, Any]:
    """Create the installed optimizers over tensors of the same sizes."""

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


def main() -> int:
    """Measure and report; exit with 2 without a GPU."""
    parser = part_parser(__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, help="49,152, on a CPU 256")
    parser.add_argument("--vocabulary", type=int, help="256,000, on a CPU 512")
    parser.add_argument(
        "--parameters", type=int, help="parameters of the optimizer; 2^26, on a CPU 9,000"
    )
    parser.add_argument("--repetitions", type=int, help="20, on a CPU 1")
    parser.add_argument("--only-ours", action="store_true", help="skip other implementations")
    arguments = parser.parse_args()
    run(arguments, device_of(arguments), Recorder("kernels", arguments.report))
    return 0


def run(arguments: argparse.Namespace, device: torch.device, recorder: Recorder) -> None:
    """Measure all benchmarks: ours, then eager and public ones, then compiled ones."""
    on_gpu = device.type == "cuda"
    tokens = arguments.tokens or (49_152 if on_gpu else 256)
    vocabulary = arguments.vocabulary or (256_000 if on_gpu else 512)
    parameters = arguments.parameters or (1 << 26 if on_gpu else 9_000)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    torch.manual_seed(21)
    clock = Clock(device, arguments.repetitions or (20 if on_gpu else 1))
    bandwidth, rate = device_rates(clock, dtype)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    recorder.figure(name, "copy", bandwidth / 1e12, "TB/s")
    recorder.figure(name, "products", rate / 1e12, "TFLOP/s")
    recorder.remark("implementations", str(kernels.backends(device.type)))
    full_size = (tokens, vocabulary) == (49_152, 256_000)
    bench = Bench(clock, recorder, bandwidth, rate, full_size)
    steps = [bench.ours] if arguments.only_ours else [bench.ours, bench.rivals]
    if on_gpu and not arguments.only_ours:
        steps.append(bench.compiled)  # on a CPU it would want a C++ compiler
    for number, step in enumerate(steps):
        for operation, case in benchmarks(device, dtype, tokens, vocabulary):
            step(operation, case)
        if number == 0:
            measure_optimizer(bench, parameters, others=not arguments.only_ours)


if __name__ == "__main__":
    sys.exit(main())
