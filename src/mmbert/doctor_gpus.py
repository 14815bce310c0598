"""What `mmbert doctor` says about GPUs: their kinds, memory and driver, and FlashAttention-3."""

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
# Folders of PyTorch's index that hold flash-attn-3, by CUDA version; any later torch takes them.
FLASH_3_BUILDS = ((12, 6), (12, 8), (12, 9), (13, 0))


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is empty when nothing is amiss."""

    section: str
    name: str
    value: str
    remedy: str = ""


def gpu_findings() -> list[Finding]:
    """A line for each GPU and one if they differ; where there is none, why."""
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
                f"of {len(kinds)} kinds: {', '.join(kinds)}",
                "choose those of one kind by CUDA_VISIBLE_DEVICES: the slowest sets the pace",
            )
        )
    return findings


def _gpu(index: int) -> Finding:
    device = torch.cuda.get_device_properties(index)
    value = f"{device.name}, {device.total_memory / 2**30:.0f} GiB, sm_{device.major}{device.minor}"
    remedies = []
    if not computes_in_bfloat16(index):
        value += ", no bfloat16"
        remedies.append("too old for bfloat16: train with precision=float32, or take an A100")
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # not even a context has room, or another process owns it
        value += ", not usable"
        remedies.append(f"{str(error).splitlines()[0]}: see nvidia-smi for who uses it")
    else:
        value += f", {free / total:.0%} free"
        if free < MIN_FREE_FRACTION * total:
            remedies.append(
                f"another process fills it: {free / 2**30:.0f} GiB are free; nvidia-smi names it, "
                "CUDA_VISIBLE_DEVICES chooses another GPU"
            )
    return Finding("devices", f"GPU {index}", value, "; ".join(remedies))


def _no_gpu() -> Finding:
    """Why torch finds none: it is a CPU build, there is none, or the driver does not fit."""
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
            "devices", "GPU", "none usable: nvidia-smi fails", "start or install NVIDIA's driver"
        )
    if hidden is not None and not re.match(r"\d|GPU-|MIG-", hidden):
        value = f"none usable: CUDA_VISIBLE_DEVICES is {hidden!r}"
        return Finding("devices", "GPU", value, "unset CUDA_VISIBLE_DEVICES")
    driver = f"{version[1]}.{version[2]}"
    if int(version[1]) < int(built.split(".")[0]):
        return Finding(
            "devices",
            "GPU",
            f"none usable: the driver is for CUDA {driver} at most, torch for {built}",
            f"install a newer driver, or a torch built for CUDA {version[1]}",
        )
    return Finding(
        "devices",
        "GPU",
        f"none usable, though nvidia-smi runs (driver for CUDA {driver}, torch for {built})",
        "restart the machine or reload the driver if it was updated; in a container, pass GPUs in",
    )


def _nvidia_smi() -> str | None:
    """What it prints, whether it succeeds or not; None where there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def flash_attention_3() -> list[Finding]:
    """On Hopper, whether FlashAttention-3 is there, with the command that installs it."""
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
    """How to install it for a torch built for this CUDA version; empty if there is no build.

    The package registry does not have it: whoever took the name there could run anything here.
    Without dependencies, as PyTorch's index would put another torch in place of the present one.
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
