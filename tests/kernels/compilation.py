"""Compiling Triton kernels without a GPU, for A100 and H100 or H200, and what is checked of them.

A stand-in for the driver names the target, and every launch ends when the kernel is compiled.
"""

import re
import subprocess
from tempfile import NamedTemporaryFile
from typing import Any

import torch

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


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A differentiated argument of zeros."""
    return torch.zeros(*shape, dtype=dtype, requires_grad=True)
