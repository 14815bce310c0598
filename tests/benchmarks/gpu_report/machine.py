"""Part of the GPU report: versions, device, clocks, limits, free memory, `mmbert doctor`."""

import importlib.metadata
import subprocess
import sys

import torch

from mmbert.doctor import collect_findings
from tests.benchmarks.gpu_report.options import part_parser
from tests.benchmarks.gpu_report.records import NO_GPU, Recorder

PACKAGES = (
    "torch",
    "triton",
    "deepspeed",
    "transformers",
    "numpy",
    "flash-attn",
    "flash-attn-3",
    "nvidia-cudnn-cu13",
    "nvidia-nccl-cu13",
)
# As nvidia-smi names them, and their units.
QUERIES = {
    "driver_version": "",
    "clocks.sm": "MHz",
    "clocks.max.sm": "MHz",
    "clocks.mem": "MHz",
    "power.draw": "W",
    "power.limit": "W",
    "temperature.gpu": "°C",
    "utilization.gpu": "%",
}


def _queried(name: str) -> list[str]:
    """Query nvidia-smi for the first GPU; empty if that fails."""
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader,nounits", "--id=0"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return run.stdout.split("\n")[:1]


def main() -> int:
    """Record the machine; exit status 0 whatever is wrong, since the report continues."""
    arguments = part_parser(__doc__).parse_args()
    recorder = Recorder("machine", arguments.report)
    recorder.figure("python", "value", sys.version.split()[0])
    for package in PACKAGES:
        try:
            recorder.figure(package, "value", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            recorder.figure(package, "value", "not installed")
    if arguments.device == "cuda" and torch.cuda.is_available():
        try:
            _describe_gpu(recorder)
        except RuntimeError as error:  # not even a context has room; doctor says what to do
            recorder.remark("GPU", str(error).splitlines()[0])
    for finding in collect_findings():
        if finding.remedy:
            recorder.remark(f"doctor, {finding.name}", f"{finding.value}: {finding.remedy}")
        elif finding.section in ("kernels", "devices", "backends"):
            recorder.figure(f"doctor, {finding.name}", "value", finding.value)
        if finding.name == "GPU" and arguments.device == "cuda":  # with a number where there is one
            why = f"{finding.value}: {finding.remedy}" if finding.remedy else finding.value
            recorder.remark(NO_GPU, why)
    return 0


def _describe_gpu(recorder: Recorder) -> None:
    device = torch.cuda.get_device_properties(0)
    recorder.figure("GPU", "value", device.name)
    recorder.figure("multiprocessors", "value", str(device.multi_processor_count))
    recorder.figure("CUDA of torch", "value", str(torch.version.cuda))
    free, total = torch.cuda.mem_get_info(0)
    recorder.figure("memory", "free", free / 2**30, "GiB")
    recorder.figure("memory", "all", total / 2**30, "GiB")
    for name, unit in QUERIES.items():
        for answer in _queried(name):
            recorder.figure(name, "value", f"{answer.strip()} {unit}".strip())


if __name__ == "__main__":
    sys.exit(main())
