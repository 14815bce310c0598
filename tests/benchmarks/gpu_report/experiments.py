"""Part of the GPU report: experiments that decide what to change in the code.

Attention: libraries for global layers (cuDNN and FlashAttention-3 against FlashAttention-2) and for
windows, and the cost of empty document slots. Kernels of norms, GeGLU and RoPE: other numbers of
warps and rows. Each trial is compared with the current code, and reported if its result differs.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import mmbert_kernels as kernels
from mmbert.data.loading.device_batch import to_batch
from mmbert_kernels.packed_attention.cpu_blocked import blocked_attention
from mmbert_kernels.packed_attention.gpu_libraries import (
    flash_attention,
    flash_attention_3,
    varlen_attention,
)
from mmbert_kernels.support.dispatch import is_hopper, is_installed
from tests.benchmarks.bench_kernels import Clock
from tests.benchmarks.gpu_report.options import device_of, part_parser
from tests.benchmarks.gpu_report.records import Recorder
from tests.support.packed_rows import packed_rows

HEADS, HEAD_SIZE = 12, 64
HIDDEN, INNER = HEADS * HEAD_SIZE, 1152
WINDOW = 128
WARPS = (1, 2, 4, 8)
ROWS = (4, 8, 16, 32)
# Of the largest number: two roundings of bfloat16, one for each of two ways to the same sum.
SAME = 2**-7
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trial:
    """An alternative implementation."""

    name: str
    function: Function
    setting: Callable[[], AbstractContextManager[object]] = nullcontext
    """Context of its forward and backward passes."""


@dataclass(frozen=True)
class Bench:
    """Clock, recorder, number of tokens and dtype of the measurements."""

    clock: Clock
    recorder: Recorder
    tokens: int
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        return self.clock.device

    def random(self, *shape: int) -> Tensor:
        """Return random numbers that require a gradient."""
        return torch.randn(*shape, device=self.device).to(self.dtype).requires_grad_()

    def both_passes(self, function: Function, x: Tensor) -> tuple[float, Tensor]:
        """Return milliseconds of forward and backward, and the gradient."""
        upstream = torch.ones_like(function(x))
        taken = self.clock.milliseconds(lambda: torch.autograd.grad(function(x), x, upstream))
        return taken, torch.autograd.grad(function(x), x, upstream)[0]

    def compare(
        self, subject: str, operation: str, today: Function, trials: Sequence[Trial], x: Tensor
    ) -> None:
        """Time the current code and each trial; `operation`: its tests verify the current code."""
        taken, expected = self.both_passes(today, x)
        self.recorder.figure(subject, "today", taken, "ms", (operation,))
        largest = float(expected.abs().max())
        for trial in trials:
            try:
                with trial.setting():
                    taken, found = self.both_passes(trial.function, x)
            except Exception as error:  # a library's refusal, or a launch that has no room
                told = str(error).strip().splitlines() or [""]
                self.recorder.remark(subject, f"{trial.name}: {type(error).__name__}: {told[0]}")
                continue
            self.recorder.figure(subject, trial.name, taken, "ms", (operation,))
            difference = float((found - expected).abs().max())
            if not difference <= SAME * largest:
                self.recorder.remark(
                    subject, f"{trial.name} gives another gradient (by {difference / largest:.1e})"
                )


def attention(bench: Bench, context: int) -> None:
    """Compare libraries for both kinds of layers, and empty slots, on web-like document lengths."""
    (row,) = packed_rows(1, tokens=bench.tokens, context=context, mask_ratio=0.3, vocabulary=HIDDEN)
    cu_seqlens = to_batch(row, bench.device).cu_seqlens
    padding = (0, 3 * len(cu_seqlens))
    four_times = torch.nn.functional.pad(cu_seqlens, padding, value=bench.tokens)
    qkv = bench.random(bench.tokens, 3, HEADS, HEAD_SIZE)
    on_gpu = bench.device.type == "cuda"
    for window, kind in ((None, "global"), (WINDOW, "window")):

        def today(qkv: Tensor, bounds: Tensor = cu_seqlens, window: int | None = window) -> Tensor:
            if on_gpu:
                return varlen_attention(parts(qkv), bounds, context, window)
            return blocked_attention(qkv, bounds, window)

        slots = Trial("four times the slots", partial(today, bounds=four_times))
        libraries = _libraries(today, cu_seqlens, context, window) if on_gpu else []
        trials = [*libraries, slots]
        bench.compare(f"attention {context}, {kind}", "attention", today, trials, qkv)


def parts(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split [T, 3, H, D] into queries, keys and values."""
    query, key, value = qkv.unbind(1)
    return query, key, value


def _libraries(
    today: Function, cu_seqlens: Tensor, context: int, window: int | None
) -> Iterator[Trial]:
    if window is None:  # cuDNN's takes no window
        yield Trial("cuDNN", today, varlen_by_cudnn)
    bounds = (cu_seqlens, context, window)
    if is_installed("flash_attn.flash_attn_interface"):
        yield Trial("flash-attn 2", lambda qkv: flash_attention(qkv, *bounds))
    if is_hopper() and is_installed("flash_attn_interface"):
        yield Trial("flash-attn 3", lambda qkv: flash_attention_3(parts(qkv), *bounds))


def varlen_by_cudnn() -> AbstractContextManager[object]:
    """Switch PyTorch's variable-length attention to cuDNN, forward and backward."""
    varlen = import_module("torch.nn.attention.varlen")
    return mock.patch.object(varlen, "_should_use_cudnn", return_value=True)


def with_warps(warps: int) -> AbstractContextManager[object]:
    """Launch Triton kernels with this number of warps."""
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def changed(self: Any, *arguments: Any, **options: Any) -> Any:
        return run(self, *arguments, **(options | {"num_warps": warps}))

    return mock.patch.object(JITFunction, "run", changed)


def with_rows(module: str, name: str, value: object) -> AbstractContextManager[object]:
    """Replace a constant of a kernel, or the function that computes it."""
    return mock.patch.object(import_module(f"mmbert_kernels.{module}"), name, value)


def sweeps(bench: Bench) -> None:
    """Try numbers of warps and rows for the memory-bound kernels."""
    x, weight = bench.random(bench.tokens, HIDDEN), bench.random(HIDDEN).detach()
    residual = bench.random(bench.tokens, HIDDEN).detach()
    (row,) = packed_rows(1, tokens=bench.tokens, context=1024, mask_ratio=0.3, vocabulary=HIDDEN)
    cu_seqlens = to_batch(row, bench.device).cu_seqlens

    def normed(x: Tensor) -> Tensor:
        return kernels.add_layer_norm(x, residual, weight, 1e-5)[0]

    def rotated(qkv: Tensor) -> Tensor:  # in place, so of a copy, whose time is in all trials
        return kernels.rotary(qkv.view(-1, 3, HEADS, HEAD_SIZE).clone(), cu_seqlens, 1e4)

    def norms_rows(rows: int) -> AbstractContextManager[object]:
        return with_rows("norms.triton_kernels", "_rows_per_program", lambda *_: rows)

    geglu_rows = partial(with_rows, "geglu", "ROWS")
    rotary_rows = partial(with_rows, "rotary_embedding.triton_kernels", "TOKENS")
    for name, operation, function, argument, rows_setting in (
        ("add + layer norm", "layer norms", normed, x, norms_rows),
        ("geglu", "geglu", kernels.geglu, bench.random(bench.tokens, 2 * INNER), geglu_rows),
        ("rotary", "rotary", rotated, bench.random(bench.tokens, 3 * HIDDEN), rotary_rows),
    ):
        trials = [Trial(f"{n} warps", function, partial(with_warps, n)) for n in WARPS]
        trials += [Trial(f"{n} rows", function, partial(rows_setting, n)) for n in ROWS]
        on_gpu = bench.device.type == "cuda"  # elsewhere there is nothing to launch
        bench.compare(name, operation, function, trials if on_gpu else [], argument)


def run(arguments: argparse.Namespace, device: torch.device, recorder: Recorder) -> None:
    """Run all experiments, most important first."""
    on_gpu = device.type == "cuda"
    torch.manual_seed(21)
    bench = Bench(
        Clock(device, 10 if on_gpu else 1),
        recorder,
        tokens=49_152 if on_gpu else 512,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
    )
    for context in (1024, 8192) if on_gpu else (128,):
        attention(bench, context)
    sweeps(bench)


def main() -> int:
    """Measure and report; exit status 2 without a GPU."""
    arguments = part_parser(__doc__.splitlines()[0]).parse_args()
    run(arguments, device_of(arguments), Recorder("experiments", arguments.report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
