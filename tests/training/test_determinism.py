"""`deterministic: true`: no effect on a CPU, equal runs on a GPU, checks before the start."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmbert.errors import UserError
from mmbert.training.determinism import set_environment, set_up_device
from mmbert.training.run_config import RunOptions
from mmbert_kernels.support.dispatch import backend
from tests.support.environment import ROOT, on_a_gpu
from tests.support.prescribed_gradients import recipe
from tests.support.ranks import run_ranks
from tests.support.small_run import options_for, pretrain_rank, step_losses

GPU = torch.device("cuda", 0)


def weights_of(run: Path) -> dict[str, bytes]:
    """Return the files of weights and optimizer states in a run's checkpoints."""
    files = sorted((run / "checkpoints").rglob("*.safetensors"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def train_and_tell(rank: int, world_size: int, options: RunOptions) -> tuple[int, bool, str | None]:
    """Rank function; return the exit status and the settings of torch and cuBLAS."""
    status = pretrain_rank(rank, world_size, options)
    deterministic = torch.are_deterministic_algorithms_enabled()
    return status, deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


def test_on_a_cpu_it_changes_nothing(inputs: Path, undisturbed: Path, tmp_path: Path) -> None:
    options = options_for(
        inputs, tmp_path / "run", "deterministic=true", stop_after_phase="pretrain"
    )
    told = run_ranks(train_and_tell, 2, options)
    assert told == dict.fromkeys((0, 1), (0, False, ":4096:8"))
    losses, expected = step_losses(options.output), step_losses(undisturbed)
    assert len(losses) == 10
    assert losses == {step: expected[step] for step in losses}
    weights, all_weights = weights_of(options.output), weights_of(undisturbed)
    shared = weights.keys() & all_weights.keys()
    assert len(shared) >= 2
    assert all(weights[name] == all_weights[name] for name in shared)


def test_cublas_and_nccl_are_told() -> None:
    environment: dict[str, str] = {}
    set_environment(recipe(), environment)
    assert environment == {}
    set_environment(recipe(deterministic=True), environment)
    assert environment == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "^NVLS,NVLSTree"}
    emptied = {"NCCL_ALGO": ""}  # NCCL takes it for unset
    set_environment(recipe(deterministic=True), emptied)
    assert emptied["NCCL_ALGO"] == "^NVLS,NVLSTree"
    own = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "NCCL_ALGO": "Ring"}
    set_environment(recipe(deterministic=True), own)
    assert own == {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "NCCL_ALGO": "Ring"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0"),
        ("NCCL_ALGO", "nvls,ring"),
        ("NCCL_ALGO", "^Ring"),
        ("NCCL_ALGO", "^NVLS"),
    ],
)
def test_an_environment_that_cannot_is_refused(name: str, value: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{name} is '{value}'")):
        set_environment(recipe(deterministic=True), {name: value})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A fake H100 with Triton and without flash-attn."""
    for name in ("MMBERT_KERNELS", "MMBERT_ATTENTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("mmbert_kernels.support.dispatch.triton_is_installed", lambda: True)
    monkeypatch.setattr("mmbert_kernels.support.dispatch.is_installed", lambda _: False)
    monkeypatch.setattr("mmbert_kernels.support.dispatch.is_hopper", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    backend.cache_clear()
    yield monkeypatch
    backend.cache_clear()
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_torch_is_told_on_a_gpu(gpu: pytest.MonkeyPatch, precision: str) -> None:
    set_up_device(recipe(deterministic=True, precision=precision), GPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    set_up_device(recipe(precision=precision), GPU)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("variable", "named"),
    [("MMBERT_ATTENTION", "attention by reference"), ("MMBERT_KERNELS", "geglu by reference")],
)
def test_an_implementation_that_cannot_is_refused_by_name(
    gpu: pytest.MonkeyPatch, variable: str, named: str
) -> None:
    gpu.setenv(variable, "reference")
    set_up_device(recipe(precision="bfloat16"), GPU)
    with pytest.raises(UserError, match=named) as refusal:
        set_up_device(recipe(deterministic=True, precision="bfloat16"), GPU)
    assert f"unset {'MMBERT_KERNELS'}" in refusal.value.remedy
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("MMBERT_KERNELS", "tritn", "choose 'reference' or 'triton'"),
        ("MMBERT_ATTENTION", "flash_attn", "not installed"),
        ("MMBERT_ATTENTION", "blocked", "does not run on cuda"),
        ("MMBERT_ATTENTION", "varlen", "supports only bfloat16 and float16"),
    ],
)
@pytest.mark.parametrize("deterministic", [False, True])
def test_what_cannot_be_forced_is_refused_at_start(
    gpu: pytest.MonkeyPatch, variable: str, value: str, told: str, deterministic: bool
) -> None:
    gpu.setenv(variable, value)
    with pytest.raises(UserError, match=told) as refusal:
        set_up_device(recipe(precision="float32", deterministic=deterministic), GPU)
    assert "unset MMBERT_" in refusal.value.remedy


def test_what_cannot_be_forced_is_refused_on_a_cpu_too(gpu: pytest.MonkeyPatch) -> None:
    gpu.setenv("MMBERT_ATTENTION", "varlen")
    with pytest.raises(UserError, match="does not run on cpu"):
        set_up_device(recipe(), torch.device("cpu"))


def test_flash_attention_3_is_refused_for_large_heads(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr("mmbert_kernels.support.dispatch.is_installed", lambda _: True)
    usual, large = (
        recipe(deterministic=True, precision="bfloat16", model__hidden_size=size)
        for size in (96, 1024)
    )
    set_up_device(usual, GPU)
    with pytest.raises(UserError, match="flash_attn_3 is not deterministic with a head size of"):
        set_up_device(large, GPU)


def test_a_gpu_too_old_for_bfloat16_is_refused(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    gpu.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    with pytest.raises(UserError, match="Tesla V100 does not support"):
        set_up_device(recipe(precision="bfloat16"), GPU)
    set_up_device(recipe(precision="float32"), GPU)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_two_runs_on_a_gpu_are_equal_to_the_bit(
    inputs: Path, tmp_path: Path, precision: str
) -> None:
    environment = on_a_gpu()
    runs = [tmp_path / name for name in ("first", "second")]
    for run in runs:
        command = [
            sys.executable, str(ROOT / "launch" / "pretrain.py"), "--recipe",
            str(inputs / "recipe.yaml"), "--data", str(inputs / "shards"), "--output", str(run),
            f"precision={precision}", "deterministic=true", "model.hidden_size=128",
            "model.intermediate_size=128", "batch.row_tokens=2048", "phases.pretrain.tokens=80k",
            "--stop-after-phase", "pretrain",
        ]  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    losses = [step_losses(run) for run in runs]
    assert len(losses[0]) >= 8
    assert losses[0] == losses[1]
    first, second = (weights_of(run) for run in runs)
    assert first
    assert first == second
