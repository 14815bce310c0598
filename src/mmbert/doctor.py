"""Report of `mmbert doctor`: versions, devices, backends, kernels and programs of this machine."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.text import Text

import mmbert
import mmbert_kernels
from mmbert.command_line.tables import WholeTable
from mmbert.doctor_gpus import Finding, flash_attention_3, gpu_findings
from mmbert.errors import UserError
from mmbert.wheels.required import required

REQUIRED = (
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "numpy",
    "safetensors",
    "pyarrow",
    "zstandard",
    "xxhash",
    "tensorboard",
    "pydantic",
    "typer",
)
# package, purpose, installation
OPTIONAL = (
    ("triton", "fused kernels on a GPU", "comes with the CUDA build of torch"),
    ("flash_attn", "the fastest attention on a GPU", "pip install -e '.[gpu]'"),
    ("kitoken", "about 2.5 times faster tokenization", "pip install -e '.[fast]'"),
    ("mpi4py", "preprocessing on several nodes", "pip install -e '.[mpi]'"),
    ("sentence_transformers", "evaluation of embeddings", "pip install -e '.[eval]'"),
    ("py3langid", "identification of languages in reports", "pip install -e '.[identify]'"),
)


def collect_findings() -> list[Finding]:
    """Inspect this machine. Creates a CUDA context on each GPU to read its free memory."""
    return [*_versions(), *_devices(), *_backends(), *_kernels(), *_programs()]


def _versions() -> list[Finding]:
    findings = [
        Finding("versions", "mmbert-train", mmbert.__version__),
        Finding("versions", "python", platform.python_version()),
    ]
    for package in REQUIRED:
        version = _version(package)
        if version and package == "torch":
            version = torch.__version__  # includes the build
        bounds = supported_versions(package)
        remedy = "" if version else "run `make setup`"
        if version and not bounds.contains(version, prereleases=True):
            remedy = f"supported: {package} {bounds}"
        findings.append(Finding("versions", package, version or "missing", remedy))
    for package, purpose, how in OPTIONAL:
        version = _version(package.replace("_", "-"))
        present = version is not None and importlib.util.find_spec(package) is not None
        value = str(version) if present else f"not installed ({purpose})"
        findings.append(Finding("optional", package, value, "" if present else how))
    return [*findings, *flash_attention_3()]


def _devices() -> list[Finding]:
    findings = [
        Finding("devices", "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    ]
    return [*findings, *gpu_findings()]


def _backends() -> list[Finding]:
    distributed = torch.distributed
    names = [
        name
        for name, available in (
            ("nccl", distributed.is_nccl_available()),
            ("gloo", distributed.is_gloo_available()),
            ("mpi", distributed.is_mpi_available()),
        )
        if available
    ]
    findings = [Finding("backends", "torch.distributed", ", ".join(names) or "none")]
    if torch.cuda.is_available() and "nccl" not in names:
        findings.append(Finding("backends", "nccl", "missing", "install a CUDA build of torch"))
    return findings


def _kernels() -> list[Finding]:
    return [
        Finding(
            "kernels", "attention in bfloat16" if operation == "attention" else operation, backend
        )
        for operation, backend in mmbert_kernels.backends().items()
    ]


def _programs() -> list[Finding]:
    purposes = (
        ("deepspeed", "the launcher", "run `make setup`"),
        ("srun", "Slurm jobs (slurm/*.sbatch)", ""),
        ("pdsh", "`deepspeed --hostfile` on several nodes: apt-get install pdsh", ""),
        ("ssh", "`deepspeed --hostfile` on several nodes: apt-get install openssh-client", ""),
        ("mpirun", "preprocessing on several nodes, `deepspeed --launcher openmpi`", ""),
        ("nvidia-smi", "GPU driver", ""),
    )
    beside = str(Path(sys.executable).parent)
    findings = []
    for program, purpose, remedy in purposes:
        path = shutil.which(program) or shutil.which(program, path=beside)
        findings.append(
            Finding("programs", program, path or f"not found ({purpose})", "" if path else remedy)
        )
    return findings


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def supported_versions(package: str) -> SpecifierSet:
    """Return the versions of a required package that setup.py allows.

    Reads setup.py, or the installed package's metadata outside of a repository.
    """
    try:
        requirements = required()
    except UserError:
        requirements = [
            Requirement(line) for line in importlib.metadata.requires("mmbert-train") or ()
        ]
    return next(
        requirement.specifier
        for requirement in requirements
        if requirement.name == package and requirement.marker is None
    )


def render(findings: list[Finding], console: Console) -> None:
    """Print the findings as a table."""
    table = WholeTable("", "what", "here", "remedy", box=None, pad_edge=False)
    section = ""
    for finding in findings:
        table.add_row(
            finding.section if finding.section != section else "",
            Text(finding.name),
            Text(finding.value),
            Text(finding.remedy),
            style="yellow" if finding.remedy else None,
        )
        section = finding.section
    console.print(table)
