"""Every Triton kernel, as the models of the presets launch it, compiled for A100 and H100 or H200,
each with the same fusion of products and sums.

No GPU is needed: a stand-in for the driver names the target, and every launch ends when the
kernel is compiled. The tensors are small but have the models' widths and types, so that the
compile-time arguments and the specialisations are those of training.
"""

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.rotary import rotary_unpacked
from mmbert_kernels.support.dispatch import backend, triton_interprets
from mmbert_kernels.support.triton_import import FP_FUSION

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or triton_interprets(),
    reason="Triton is not installed, or interprets",
)

# The hidden sizes and heads of the presets.
WIDTHS = [384, 768, 1536, 4096]
HEADS = [6, 12, 24, 64]
# What a multiprocessor has, and the programs that the layer norm's backward pass starts on each.
REGISTERS, PROGRAMS = 65536, 4
# Bytes of local memory a lane: a number or two. Triton 3.6's assembler spills up to 18 where a row
# of 1536 goes back through dropout and its norm; that of 3.7 finds registers for them.
LOCAL_MEMORY, LOCAL_MEMORY_OF_3_6 = 8, {"_backward_kernel": 72}
# Kernels that read single numbers.
NARROW = {"_span_sums_kernel"}
# What a multiprocessor gives one program.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
Compiled = list[tuple[str, Any]]


class FakeDriver:
    """The little of a Triton driver that compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # kernels are kept by device: no mixing of the two targets

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@pytest.fixture(params=[80, 90])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    """Compile instead of launching; the fixture is the list of (kernel's name, compiled kernel)."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    launched: list[str] = []
    launches: Compiled = []
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, warmup: bool, **options: Any) -> Any:
        assert options["enable_fp_fusion"] is FP_FUSION, self.__name__
        launched.append(self.__name__)
        kernel = run(self, *arguments, warmup=True, **options)
        launches.append((self.__name__, kernel))
        return kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr("mmbert_kernels.support.dispatch.triton_interprets", lambda: True)
    monkeypatch.setenv("MMBERT_KERNELS", "triton")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")  # nothing is left to the default
    backend.cache_clear()
    monkeypatch.setattr(driver, "_active", FakeDriver(request.param))
    yield launches
    backend.cache_clear()
    target = f".target sm_{request.param}" + ("a" if request.param == 90 else "")
    assert launched
    for name, kernel in launches:
        assert target in kernel.asm["ptx"], name
        assert kernel.metadata.enable_fp_fusion is FP_FUSION, name
        assert len(kernel.asm["cubin"]) > 1000, name
        assert kernel.metadata.shared <= SHARED_MEMORY[request.param], name
        assert narrow_products(kernel.asm["ttir"]) == [], name
    for name, kernel in {id(kernel): (name, kernel) for name, kernel in launches}.values():
        check_resources(name, kernel)


def check_resources(name: str, kernel: Any) -> None:
    """Local memory holds a number or two at most, wide reads are wide, a grid that is to run at
    once does: it decides whether a kernel that moves bytes moves them at the device's rate."""
    import triton

    used = resources(kernel.asm["cubin"])
    old = LOCAL_MEMORY_OF_3_6 if triton.__version__.startswith("3.6.") else {}
    assert used["STACK"] + used["LOCAL"] <= old.get(name, LOCAL_MEMORY), (name, used)
    assert "ld.global.v4" in kernel.asm["ptx"] or name in NARROW, name
    if name == "_backward_kernel" and "grad_weight" in kernel.asm["ttir"]:
        lanes = 32 * kernel.metadata.num_warps
        at_once = REGISTERS // (-(-used["REG"] // 8) * 8 * lanes)
        assert at_once >= (PROGRAMS if lanes == 128 else PROGRAMS // 2), (name, used)


def resources(cubin: bytes) -> dict[str, int]:
    """What a lane and a program of a compiled kernel take, by cuobjdump's names."""
    from triton import knobs

    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}


def narrow_products(code: str) -> list[str]:
    """Products of a row's stride or width in 32 bits: with 49,152 rows of 256,000 they overflow."""
    narrow = {"%width", "%vocabulary"} | set(re.findall(r"%\w*_stride\b", code))
    found = []
    for line in code.splitlines():
        named = re.match(r"\s*(%\w+) = (\S+) (.*) : (.*)", line)
        if named is None:
            continue
        result, operator, operands, kinds = named.groups()
        if not narrow & set(re.findall(r"%\w+", operands)) or "i64" in kinds:
            continue
        if operator in ("tt.splat", "tt.expand_dims", "tt.broadcast"):
            narrow.add(result)
        elif operator == "arith.muli":
            found.append(line.strip())
    return found


def test_narrow_products_are_found() -> None:
    code = """
      %at = tt.splat %x_stride : i32 -> tensor<8xi32>
      %good = arith.muli %rows64, %strides64 : tensor<8xi64>
      %bad = arith.muli %rows, %at : tensor<8xi32>
    """
    assert narrow_products(code) == ["%bad = arith.muli %rows, %at : tensor<8xi32>"]


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, requires_grad=True)


def expect(compiled: Compiled, *names: str) -> None:
    assert {name for name, _ in compiled} == set(names)


@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norms(compiled: Compiled, width: int) -> None:
    x, residual, weight = tensor(32, width), tensor(32, width), tensor(width)
    kernels.layer_norm(x, weight, 1e-5).sum().backward()
    normed, total = kernels.add_layer_norm(x, residual, weight, 1e-5)
    (normed + total).sum().backward()
    kernels.add_layer_norm(x, residual, weight, 1e-5)[0].sum().backward()
    expect(compiled, "_forward_kernel", "_backward_kernel")


@pytest.mark.parametrize("width", WIDTHS)
def test_embedding_and_gathering(compiled: Compiled, width: int) -> None:
    ids = torch.zeros(64, dtype=torch.int64)
    table, weight = tensor(64, width), tensor(width)
    kernels.embedding_layer_norm(ids, table, weight, 1e-5).sum().backward()
    kernels.gather_rows(tensor(64, width), ids).sum().backward()
    kernels.gather_rows(tensor(64, width), ids, ascending=True).sum().backward()
    expect(
        compiled, "_forward_kernel", "_backward_kernel", "_block_sums_kernel", "_add_parts_kernel"
    )


def test_geglu(compiled: Compiled) -> None:
    kernels.geglu(tensor(32, 2 * 1152)).sum().backward()
    expect(compiled, "_forward_kernel", "_backward_kernel")


@pytest.mark.parametrize("heads", HEADS)
def test_rotary(compiled: Compiled, heads: int) -> None:
    cu_seqlens = torch.full((1025,), 32, dtype=torch.int32)
    kernels.rotary(tensor(32, 3, heads, 64), cu_seqlens, 160_000.0).sum().backward()
    parts = rotary_unpacked(tensor(32, 3, heads, 64), cu_seqlens, 160_000.0)
    torch.autograd.backward(parts, [torch.zeros(32, heads, 64, dtype=torch.bfloat16)] * 3)
    expect(compiled, "_rotate_kernel")


@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm_after_dropout(compiled: Compiled, width: int) -> None:
    x, residual, weight = tensor(32, width), tensor(32, width), tensor(width)

    def run(first_token: int) -> None:
        dropout = kernels.Dropout(0.1, 21, first_token)
        normed, total = kernels.add_layer_norm(x, residual, weight, 1e-5, dropout)
        (normed + total).sum().backward()

    run(2**40)
    expect(compiled, "_forward_kernel", "_backward_kernel")
    kernels_for_one = {id(kernel) for _, kernel in compiled}
    for first_token in (0, 1, 16, 49_152, 3 * 10**12):
        run(first_token)
    assert {id(kernel) for _, kernel in compiled} == kernels_for_one, "compiled again by row"


def test_linear_cross_entropy(compiled: Compiled) -> None:
    labels = torch.zeros(64, dtype=torch.int64)
    hidden, weight, bias = tensor(64, 768), tensor(256, 768), tensor(256)
    kernels.linear_cross_entropy(hidden, weight, bias, labels).sum().backward()
    expect(compiled, "_statistics_kernel", "_gradient_kernel")


def test_stable_adamw(compiled: Compiled) -> None:
    spans = kernels.TensorSpans((0, 64), (64, 128))
    flat = [torch.zeros(128) for _ in range(4)]
    shared = {"betas": (0.9, 0.95), "step": 7, "eps": 1e-8}
    sums = kernels.stable_adamw_sums(*flat[:2], spans, **shared)
    kernels.stable_adamw_apply(
        *flat,
        spans,
        sums,
        **shared,
        learning_rate=1e-3,
        peak_learning_rate=1e-3,
        weight_decay=torch.zeros(2),
    )
    expect(compiled, "_sums_kernel", "_span_sums_kernel", "_apply_kernel")
