"""Compilation of Triton kernels without a GPU, for A100 and H100 or H200, and checks of the result.

A fake driver sets the target, and every launch stops after compilation.
"""

import re
import subprocess
from tempfile import NamedTemporaryFile
from typing import Any

import torch

# Registers of a multiprocessor, and programs per multiprocessor in the layer norm's backward pass.
REGISTERS, PROGRAMS = 65536, 4
# Bytes of local memory per lane: a number or two. The assembler of Triton 3.6 spills up to 18
# numbers in the backward pass of dropout and norm at width 1536; that of 3.7 does not.
LOCAL_MEMORY, LOCAL_MEMORY_OF_3_6 = 8, {"_backward_kernel": 72}
# Kernels that load single numbers.
NARROW = {"_span_sums_kernel"}
# Shared memory available to a program.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
Compiled = list[tuple[str, Any]]


class FakeDriver:
    """The part of a Triton driver that compilation needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # kernels are cached by device: keeps the two targets apart

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


def check_resources(name: str, kernel: Any) -> None:
    """Assert that a kernel hardly spills, loads 16 bytes at a time, and that persistent programs
    are resident together: a memory-bound kernel needs this to reach the device's bandwidth."""
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
    """Return the resources of a compiled kernel, by cuobjdump's names."""
    from triton import knobs

    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}


def narrow_products(code: str) -> list[str]:
    """Return 32-bit products with a stride or width, which overflow for 49,152 rows of 256,000."""
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
    """Create a differentiated argument of zeros."""
    return torch.zeros(*shape, dtype=dtype, requires_grad=True)
