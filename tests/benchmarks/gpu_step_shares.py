"""Breakdown of a training step: device time of each operation from a trace, and its lower bound."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mmbert.data.loading.rows import Row
from mmbert.model.flops import training_flops
from mmbert.recipe import ModelSettings
from tests.kernels.cases import all_cases
from tests.support.gpu_files import report_name
from tests.support.packed_rows import document_lengths

# The outermost range of the trace that names an operation: autograd functions by the beginning of
# their names, forward and (…Backward) backward; the optimizer by torch's own range.
OPERATIONS: dict[str, tuple[str, ...]] = {
    **{report_name(case.operation): case.trace_names for case in all_cases() if case.trace_names},
    "linear layers": ("_ColumnLinear", "_RowLinear"),
}
OTHER = "everything else"
BYTES = 2  # bfloat16


def shares(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Trace `call`; return milliseconds of device time by operation (CPU time on a CPU)."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as trace:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    found: dict[str, float] = defaultdict(float)
    total = 0.0
    for event in trace.events() or ():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if str(event.device_type).endswith("CPU"):
            total += own / 1e3
            found[_operation(event)] += own / 1e3
    found[OTHER] += 0.0
    if on_gpu and total == 0.0:
        raise RuntimeError("the trace holds no device time: CUPTI is not available here")
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _operation(event: Any) -> str:
    """Return the operation of the outermost known range around an event."""
    name = OTHER
    while event is not None:
        for operation, beginnings in OPERATIONS.items():
            if event.name.startswith(beginnings):
                name = operation
        event = event.cpu_parent
    return name


def floors(
    model: ModelSettings, rows: Sequence[Row], bandwidth: float, rate: float
) -> dict[str, float]:
    """Return a lower bound in milliseconds for each operation on these rows, forward and backward.

    It is the larger of bytes over the measured bandwidth and FLOPs over the measured rate.
    """
    d, f, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    vocabulary = model.vocab_size or 0
    milliseconds: dict[str, float] = defaultdict(float)
    for row in rows:
        lengths, masked = document_lengths(row), len(row.masked_positions)
        tokens = float(lengths.sum())
        hidden = tokens * d * BYTES
        everything = training_flops(model, vocabulary, lengths, masked)
        head = 6.0 * masked * d * vocabulary
        linear = 6.0 * tokens * layers * (4 * d * d + 3 * d * f) + 6.0 * masked * d * d
        # Five products backward instead of four: flash attention computes the scores again.
        attention = everything - linear - head
        moved = {
            "attention": 12 * hidden * layers,
            # one of two gives the gradient of what was dropped beside that of the residual
            "layer norms": (17 if model.attention_output_dropout else 16) * hidden * layers,
            "embedding": 4 * hidden + vocabulary * d * BYTES,
            "geglu": 8 * tokens * f * BYTES * layers,
            # two more where attention gives the gradients of its three arguments apart
            "rotary": 8 * hidden * layers,
            "gather rows": hidden + 3 * masked * d * BYTES,
        }
        computed = {
            "vocabulary head": head,
            "linear layers": linear,
            "attention": attention * 3.5 / 3,
        }
        for name in moved.keys() | computed.keys():
            by_bytes = moved.get(name, 0.0) / bandwidth
            milliseconds[name] += 1e3 * max(by_bytes, computed.get(name, 0.0) / rate)
    return dict(milliseconds)


def bottleneck(found: dict[str, float], least: dict[str, float]) -> str:
    """Return the operation that exceeds its lower bound (0 if it has none) the most."""
    return max(found, key=lambda name: found[name] - least.get(name, 0.0))
