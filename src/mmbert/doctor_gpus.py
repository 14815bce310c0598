"""GPU section of `mmbert doctor`: models, memory, driver and FlashAttention-3."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import torch

from mmbert_kernels import computes_in_bfloat16
from mmbert_kernels.support.dispatch import ATTENTION_PACKAGES, is_hopper, is_installed

MIN_FREE_FRACTION = 0.9
NVIDIA_SMI_TIMEOUT = 20
# CUDA versions of the flash-attn-3 builds on PyTorch's index; a build works with any later torch.
FLASH_3_BUILDS = ((12, 6), (12, 8), (12, 9), (13, 0))


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is empty if nothing is wrong."""

    section: str
    name: str
    value: str
    remedy: str = ""


def gpu_findings() -> list[Finding]:
    """Report each GPU and a mix of models, or why torch finds no GPU."""
    if not torch.cuda.is_available():
        return [_no_gpu()]
    count = torch.cuda.device_count()
    findings = [_gpu(index) for index in range(count)]
    kinds = sorted({torch.cuda.get_device_properties(index).name for index in range(count)})
    if len(kinds) > 1:
        findings.append(
            Finding(
                "devices",
                "GPUs",
                f"{len(kinds)} different models: {', '.join(kinds)}",
                "select one model with CUDA_VISIBLE_DEVICES: the slowest GPU sets the pace",
            )
        )
    return findings


def _gpu(index: int) -> Finding:
    device = torch.cuda.get_device_properties(index)
    value = f"{device.name}, {device.total_memory / 2**30:.0f} GiB, sm_{device.major}{device.minor}"
    remedies = []
    if not computes_in_bfloat16(index):
        value += ", no bfloat16"
        remedies.append(
            "no bfloat16 support: train with precision=float32, or use an A100 or newer"
        )
    try:
        free, total = torch.cuda.mem_get_info(index)
    except (
        RuntimeError
    ) as error:  # no memory for a context, or exclusively owned by another process
        value += ", not usable"
        remedies.append(f"{str(error).splitlines()[0]}: nvidia-smi shows the processes using it")
    else:
        value += f", {free / total:.0%} free"
        if free < MIN_FREE_FRACTION * total:
            remedies.append(
                f"in use by another process: {free / 2**30:.0f} GiB free; nvidia-smi shows it, "
                "CUDA_VISIBLE_DEVICES selects another GPU"
            )
    return Finding("devices", f"GPU {index}", value, "; ".join(remedies))


def _no_gpu() -> Finding:
    """Report why torch finds no GPU: CPU build, no GPU, or an incompatible driver."""
    built = torch.version.cuda
    if built is None:
        remedy = "install a CUDA build of torch" if _nvidia_smi() else ""
        return Finding("devices", "GPU", "none (torch is a CPU build)", remedy)
    output = _nvidia_smi()
    if output is None:
        return Finding("devices", "GPU", "none found")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    version = re.search(r"CUDA (?:UMD )?Version: *(\d+)\.(\d+)", output)
    if version is None:
        return Finding(
            "devices", "GPU", "none usable: nvidia-smi fails", "load or install the NVIDIA driver"
        )
    if hidden is not None and not re.match(r"\d|GPU-|MIG-", hidden):
        value = f"none usable: CUDA_VISIBLE_DEVICES is {hidden!r}"
        return Finding("devices", "GPU", value, "unset CUDA_VISIBLE_DEVICES")
    driver = f"{version[1]}.{version[2]}"
    if int(version[1]) < int(built.split(".")[0]):
        return Finding(
            "devices",
            "GPU",
            f"none usable: the driver supports CUDA up to {driver}, torch needs {built}",
            f"install a newer driver, or a torch build for CUDA {version[1]}",
        )
    return Finding(
        "devices",
        "GPU",
        f"none usable, though nvidia-smi runs (driver for CUDA {driver}, torch for {built})",
        "reboot or reload the driver if it was updated; expose the GPUs to a container",
    )


def _nvidia_smi() -> str | None:
    """Return the output of nvidia-smi: empty if it fails, None if it does not exist."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=NVIDIA_SMI_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def flash_attention_3() -> list[Finding]:
    """Report FlashAttention-3 or its install command; Hopper GPUs only."""
    if not is_hopper():
        return []
    package = ATTENTION_PACKAGES["flash_attn_3"]
    if package is not None and is_installed(package):
        return [Finding("optional", "flash_attn_3", "installed")]
    return [
        Finding(
            "optional",
            "flash_attn_3",
            "not installed (attention on Hopper, faster than version 2)",
            flash_attention_3_command(torch.version.cuda),
        )
    ]


def flash_attention_3_command(cuda: str | None) -> str:
    """Return the install command for a torch built for CUDA `cuda`; empty if there is no build.

    Uses PyTorch's index only: the package registry does not have the package, so anyone could
    claim its name there. --no-deps keeps the installed torch.
    """
    own = tuple(int(part) for part in (cuda or "0.0").split(".")[:2])
    fitting = [build for build in FLASH_3_BUILDS if build[0] == own[0] and build <= own]
    if not fitting:
        return ""
    major, minor = max(fitting)
    return (
        "pip install flash-attn-3 --no-deps "
        f"--index-url https://download.pytorch.org/whl/cu{major}{minor}"
    )
