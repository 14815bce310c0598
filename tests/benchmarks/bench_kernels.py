"""Every kernel against its byte or FLOP floor, PyTorch eager, torch.compile and Liger if installed.

On a GPU it first runs the kernels' GPU tests and reports nothing unless they pass. It measures the
device's own copy bandwidth and bf16 product rate, and from them each operation's floor: the bytes
that it must move (each argument read and each result written once) or the products that it must
make. Times are medians over repetitions, with the L2 cache emptied before each; "both" is forward
and backward together. Shapes are those of mmBERT base: 49,152 tokens, 14,746 masked.

    python tests/benchmarks/bench_kernels.py                       # on a GPU
    python tests/benchmarks/bench_kernels.py --device cpu --tokens 2048 --vocabulary 32768
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import mmbert_kernels as kernels

ROOT = Path(__file__).parents[2]
Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """An operation at one shape: what to call, what it must move and compute, forward and both."""

    name: str
    arguments: tuple[Tensor, ...]
    """Those with requires_grad are differentiated."""
    ours: Function
    eager: Function
    forward_bytes: float = 0.0
    both_bytes: float = 0.0
    forward_flops: float = 0.0
    both_flops: float = 0.0
    public: Function | None = None


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

    def forward_and_both(self, function: Function, case: Case) -> tuple[float, float]:
        """Milliseconds of the forward pass, and of forward and backward."""
        leaves = [each for each in case.arguments if each.requires_grad]

        def forward() -> tuple[Tensor, ...]:
            out = function(*case.arguments)
            return out if isinstance(out, tuple) else (out,)

        upstream = [torch.ones_like(out) for out in forward()]
        both = self.milliseconds(lambda: torch.autograd.grad(forward(), leaves, upstream))
        return self.milliseconds(forward), both


def cases(device: torch.device, dtype: torch.dtype, tokens: int, vocabulary: int) -> Iterator[Case]:
    """The operations of a step of mmBERT base."""
    d, f, heads = 768, 1152, 12
    size = dtype.itemsize
    row = tokens * d * size

    def tensor(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()

    x, residual, weight = tensor(tokens, d), tensor(tokens, d), tensor(d)
    yield Case(
        "layer norm",
        (x, weight),
        lambda x, w: kernels.layer_norm(x, w, 1e-5),
        lambda x, w: functional.layer_norm(x, (d,), w, None, 1e-5),
        2 * row,
        5 * row,
        public=liger_layer_norm(),
    )
    yield Case(
        "add + layer norm",
        (x, residual, weight),
        lambda x, r, w: kernels.add_layer_norm(x, r, w, 1e-5),
        lambda x, r, w: (functional.layer_norm(x + r, (d,), w, None, 1e-5), x + r),
        4 * row,
        8 * row,
    )
    ids = torch.randint(0, vocabulary, (tokens,), device=device)
    table = tensor(vocabulary, d)
    table_bytes = vocabulary * d * size
    yield Case(
        "embedding + norm",
        (ids, table, weight),
        lambda ids, table, w: kernels.embedding_layer_norm(ids, table, w, 1e-5),
        lambda ids, table, w: functional.layer_norm(
            functional.embedding(ids, table), (d,), w, None, 1e-5
        ),
        2 * row,
        4 * row + table_bytes,
    )
    yield Case(
        "geglu",
        (tensor(tokens, 2 * f),),
        kernels.geglu,
        lambda x: functional.gelu(x[:, :f]) * x[:, f:],
        3 * tokens * f * size,
        8 * tokens * f * size,
    )
    yield Case(
        "dropout + add",
        (x, residual),
        lambda x, r: kernels.dropout_add(x, r, 0.1, 21),
        lambda x, r: r + functional.dropout(x, 0.1),
        3 * row,
        5 * row,
    )
    length = min(1024, tokens)
    boundaries = [*range(0, tokens, length), tokens]
    cu_seqlens = torch.tensor(boundaries, dtype=torch.int32, device=device)
    qkv = tensor(tokens, 3, heads, 64)
    yield Case(
        "rotary",
        (qkv,),
        lambda qkv: kernels.rotary(qkv, cu_seqlens, 1e4),
        lambda qkv: eager_rotary(qkv, length),
        6 * row,
        12 * row,
    )
    for name, window in (("attention, global", None), ("attention, window 128", 128)):
        keys = length if window is None else min(window + 1, length)
        flops = 4.0 * tokens * keys * d
        yield Case(
            name,
            (qkv,),
            lambda qkv, window=window: kernels.attention(qkv, cu_seqlens, length, window),
            lambda qkv, window=window: eager_attention(qkv, length, window),
            4 * row,
            12 * row,
            flops,
            3.5 * flops,
        )
    masked = round(0.3 * tokens)
    positions = torch.randperm(tokens, device=device)[:masked].sort().values
    yield Case(
        "gather rows",
        (x, positions),
        kernels.gather_rows,
        lambda x, positions: x[positions],
        2 * masked * d * size,
        3 * masked * d * size + row,
    )
    labels = torch.randint(0, vocabulary, (masked,), device=device)
    product = 2.0 * masked * d * vocabulary
    yield Case(
        "linear cross-entropy",
        (tensor(masked, d), tensor(vocabulary, d, scale=0.05), tensor(vocabulary), labels),
        kernels.linear_cross_entropy,
        eager_cross_entropy,
        table_bytes,
        2 * table_bytes,
        product,
        3 * product,
        public=liger_linear_cross_entropy(),
    )


def eager_rotary(qkv: Tensor, length: int) -> Tensor:
    """Rotary on documents of one length, as it is usually written."""
    positions = torch.arange(qkv.shape[0], device=qkv.device) % length
    frequencies = 1e4 ** (-torch.arange(0, 64, 2, device=qkv.device) / 64)
    angles = torch.outer(positions.float(), frequencies).repeat(1, 2)[:, None, None, :]
    first, second = qkv[:, :2].chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    rotated = qkv[:, :2] * angles.cos() + turned * angles.sin()
    return torch.cat((rotated.to(qkv.dtype), qkv[:, 2:]), dim=1)


def eager_attention(qkv: Tensor, length: int, window: int | None) -> Tensor:
    """Attention over documents of one length, which `scaled_dot_product_attention` can batch."""
    whole = qkv.shape[0] // length * length
    query, key, value = qkv[:whole].view(-1, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    mask = None
    if window is not None:
        position = torch.arange(length, device=qkv.device)
        mask = (position[:, None] - position[None, :]).abs() <= window // 2
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def eager_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """With all logits at once."""
    logits = functional.linear(hidden, weight, bias).float()
    return functional.cross_entropy(logits, labels, reduction="none")


def liger_layer_norm() -> Function | None:
    """Liger's layer norm (which has a bias), if it is installed."""
    try:
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction
    except ImportError:
        return None
    return lambda x, w: LigerLayerNormFunction.apply(x, w, torch.zeros_like(w), 1e-5)


def liger_linear_cross_entropy() -> Function | None:
    """Liger's fused linear cross-entropy at its own chunk size, if it is installed."""
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda hidden, weight, bias, labels: loss(weight, hidden, labels, bias)


def device_rates(clock: Clock, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes per second of a copy (read and written) and FLOP per second of a product."""
    on_gpu = clock.device.type == "cuda"
    source = torch.empty(1 << (30 if on_gpu else 26), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copy = 2e3 * source.numel() / clock.milliseconds(lambda: target.copy_(source))
    side = 8192 if on_gpu else 1024
    left = torch.randn(side, side, device=clock.device).to(dtype)
    return copy, 2e3 * side**3 / clock.milliseconds(lambda: left @ left)


def tried(clock: Clock, rival: Function, case: Case) -> tuple[float, float] | None:
    """A rival's times; None if it needs too much memory or does not compile."""
    try:
        return clock.forward_and_both(rival, case)
    except (torch.OutOfMemoryError, torch._dynamo.exc.BackendCompilerFailed) as error:
        print(f"    ({type(error).__name__})")
        return None


def report(clock: Clock, dtype: torch.dtype, tokens: int, vocabulary: int, others: bool) -> None:
    """Measure and print the table."""
    bandwidth, rate = device_rates(clock, dtype)
    print(f"copy {bandwidth / 1e12:.3f} TB/s, products {rate / 1e12:.2f} TFLOP/s in {dtype}")
    print(f"implementations: {kernels.backends(clock.device.type)}")
    print("milliseconds, forward and both; floor is of both; share = floor / ours, both")
    print(f"{'operation':24}{'floor':>8}{'ours':>16}{'share':>7}{'eager':>16}", end="")
    print(f"{'compiled':>16}{'public':>16}")
    for case in cases(clock.device, dtype, tokens, vocabulary):
        floor = 1e3 * max(case.both_bytes / bandwidth, case.both_flops / rate)
        ours = clock.forward_and_both(case.ours, case)
        line = f"{case.name:24}{floor:8.3f}{ours[0]:8.3f}{ours[1]:8.3f}{floor / ours[1]:7.0%}"
        rivals = (case.eager, torch.compile(case.eager, dynamic=False), case.public)
        for rival in rivals if others else ():
            times = rival and tried(clock, rival, case)
            line += f"{times[0]:8.3f}{times[1]:8.3f}" if times else f"{'-':>16}"
        print(line, flush=True)
    report_optimizer(clock, bandwidth)


def report_optimizer(clock: Clock, bandwidth: float) -> None:
    """StableAdamW on 64 million parameters in 140 tensors, against PyTorch's fused AdamW."""
    count, tensors = (1 << 26 if clock.device.type == "cuda" else 1 << 22), 140
    flat = [torch.zeros(count, device=clock.device) for _ in range(4)]
    bounds = [count * i // tensors for i in range(tensors + 1)]
    segments = kernels.Segments(tuple(bounds[:-1]), tuple(bounds[1:]))
    decay = torch.zeros(tensors, device=clock.device)

    def step() -> None:
        sums = kernels.stable_adamw_moments(
            *flat[1:], segments, betas=(0.9, 0.95), step=5, eps=1e-8
        )
        kernels.stable_adamw_apply(
            flat[0],
            *flat[2:],
            segments,
            sums,
            learning_rate=1e-3,
            peak_learning_rate=1e-3,
            weight_decay=decay,
            eps=1e-8,
        )

    parameter = torch.zeros(count, device=clock.device, requires_grad=True)
    parameter.grad = flat[1]
    fused = torch.optim.AdamW([parameter], fused=True)
    floor = 1e3 * 36 * count / bandwidth  # 5 arrays in and out of the first pass, 4 of the second
    ours, theirs = clock.milliseconds(step), clock.milliseconds(fused.step)
    print(f"{'stable adamw':24}{floor:8.3f}{'':8}{ours:8.3f}{floor / ours:7.0%}", end="")
    print(f"{'':8}{theirs:8.3f}  (fused AdamW, which needs no per-tensor RMS)")


def main() -> int:
    """Check that the GPU tests pass, then report; 2 without a GPU, 1 if a test fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tokens", type=int, default=49_152)
    parser.add_argument("--vocabulary", type=int, default=256_000)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--only-ours", action="store_true", help="measure no other implementation")
    arguments = parser.parse_args()
    torch.manual_seed(21)
    clock = Clock(torch.device(arguments.device), arguments.repetitions)
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            print("There is no GPU here: no kernel has been measured on one.")
            return 2
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/kernels"]
        if subprocess.run(tests, cwd=ROOT, check=False).returncode != 0:
            print("The kernels' GPU tests do not pass: nothing is reported.")
            return 1
        print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    report(clock, dtype, arguments.tokens, arguments.vocabulary, not arguments.only_ours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
