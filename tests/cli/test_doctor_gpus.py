"""GPU findings of `mmbert doctor`, with fake answers of torch and the driver."""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmbert.doctor import Finding, collect_findings
from mmbert.doctor_gpus import flash_attention_3_command
from mmbert_kernels.support.dispatch import backend
from tests.support.environment import ROOT

GIB = 2**30
COMMAND = "pip install flash-attn-3 --no-deps --index-url https://download.pytorch.org/whl/"


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MMBERT_KERNELS", "MMBERT_ATTENTION", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    backend.cache_clear()
    yield
    backend.cache_clear()


def with_gpus(
    monkeypatch: pytest.MonkeyPatch,
    *gpus: tuple[str, tuple[int, int], int, int],
    cuda: str = "13.0",
) -> None:
    """Fake GPUs: name, compute capability, total and free GiB."""

    def properties(index: int) -> SimpleNamespace:
        name, (major, minor), memory, _ = gpus[index]
        return SimpleNamespace(name=name, major=major, minor=minor, total_memory=memory * GIB)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: gpus[index][1])
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda index: (gpus[index][3] * GIB, gpus[index][2] * GIB)
    )
    monkeypatch.setattr("mmbert_kernels.support.dispatch.is_installed", lambda _: False)
    monkeypatch.setattr("mmbert.doctor_gpus.is_installed", lambda _: False)


def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in collect_findings()}


H200 = ("NVIDIA H200", (9, 0), 139, 138)


def test_a_good_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, H200)
    findings = found()
    assert findings["GPU 0"].value == "NVIDIA H200, 139 GiB, sm_90, 99% free"
    assert findings["GPU 0"].remedy == ""
    assert "GPUs" not in findings
    assert findings["attention in bfloat16"].value == "varlen"
    assert findings["attention in float32"].value == "plain"


def test_what_is_wrong_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, ("Tesla T4", (7, 5), 15, 15), ("NVIDIA H200", (9, 0), 139, 125))
    findings = found()
    assert "no bfloat16" in findings["GPU 0"].value
    assert "precision=float32" in findings["GPU 0"].remedy
    assert "in use by another process: 125 GiB free" in findings["GPU 1"].remedy
    assert findings["GPUs"].value == "2 different models: NVIDIA H200, Tesla T4"
    assert "CUDA_VISIBLE_DEVICES" in findings["GPUs"].remedy


def test_a_gpu_that_takes_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory\nCompile with …")

    with_gpus(monkeypatch, H200)
    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    gpu = found()["GPU 0"]
    assert "not usable" in gpu.value
    assert gpu.remedy == "CUDA error: out of memory: nvidia-smi shows the processes using it"


@pytest.mark.parametrize(
    ("printed", "hidden", "value", "remedy"),
    [
        (
            "| NVIDIA-SMI 550.54.14  Driver Version: 550.54.14  CUDA Version: 12.4 |",
            None,
            "the driver supports CUDA up to 12.4, torch needs 13.0",
            "newer driver",
        ),
        ("| Driver Version: 610.10  CUDA UMD Version: 13.2 |", None, "nvidia-smi runs", "reload"),
        ("| CUDA Version: 13.0 |", "", "CUDA_VISIBLE_DEVICES is ''", "unset"),
        ("", None, "nvidia-smi fails", "driver"),
        (None, None, "none found", ""),
    ],
)
def test_a_torch_for_gpus_that_finds_none(
    monkeypatch: pytest.MonkeyPatch,
    printed: str | None,
    hidden: str | None,
    value: str,
    remedy: str,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("mmbert.doctor_gpus._nvidia_smi", lambda: printed)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    gpu = found()["GPU"]
    assert value in gpu.value
    assert remedy in gpu.remedy
    assert bool(gpu.remedy) == bool(remedy)


@pytest.mark.parametrize("told", [None, "NVIDIA-SMI 580 CUDA Version: 13.0"])
def test_a_cpu_build_on_a_gpus_machine(monkeypatch: pytest.MonkeyPatch, told: str | None) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("mmbert.doctor_gpus._nvidia_smi", lambda: told)
    assert found()["GPU"].remedy == ("install a CUDA build of torch" if told else "")


def test_a_driver_that_fails_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "nvidia-smi fails" in found()["GPU"].value


def test_flash_attention_3_is_offered_on_hopper_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, H200, cuda="12.8")
    assert found()["flash_attn_3"].remedy == f"{COMMAND}cu128"
    monkeypatch.setattr("mmbert.doctor_gpus.is_installed", lambda _: True)
    assert found()["flash_attn_3"].remedy == ""
    with_gpus(monkeypatch, ("NVIDIA A100", (8, 0), 80, 80))
    assert "flash_attn_3" not in found()


@pytest.mark.parametrize(
    ("cuda", "folder"),
    [("13.0", "cu130"), ("13.2", "cu130"), ("12.9", "cu129"), ("12.4", None), (None, None)],
)
def test_flash_attention_3_is_built_for_some_versions(cuda: str | None, folder: str | None) -> None:
    assert flash_attention_3_command(cuda) == (f"{COMMAND}{folder}" if folder else "")


def test_no_extra_asks_the_registry_for_flash_attention_3() -> None:
    """An install from there would fail, or get a package that someone else registered."""
    (call,) = (
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    extras = ast.literal_eval(keywords["extras_require"])
    required = ast.literal_eval(keywords["install_requires"])
    assert any(name.startswith("flash-attn>=2") for name in extras["gpu"])
    for name in [*required, *(entry for extra in extras.values() for entry in extra)]:
        assert not name.replace("_", "-").startswith(("flash-attn-3", "flash-attn-interface"))
