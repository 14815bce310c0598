"""Choice of backends by device, dtype, installed packages and environment variables."""

import logging
import sys
from pathlib import Path

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.support.dispatch import (
    FUSED_OPERATIONS,
    backend,
    is_installed,
)
from tests.kernels.case import cumulative

pytestmark = pytest.mark.usefixtures("fresh_choice")


FLASH_2, FLASH_3 = "flash_attn.flash_attn_interface", "flash_attn_interface"


def installed(
    monkeypatch: pytest.MonkeyPatch,
    *,
    triton: bool,
    flash: tuple[str, ...] = (),
    hopper: bool = False,
) -> None:
    module = "mmbert_kernels.support.dispatch"
    monkeypatch.setattr(f"{module}.triton_is_installed", lambda: triton)
    monkeypatch.setattr(f"{module}.is_installed", lambda name: name in flash)
    monkeypatch.setattr(f"{module}.is_hopper", lambda: hopper)


@pytest.mark.parametrize(
    ("triton", "flash", "hopper", "device", "fused", "attention"),
    [
        (True, (FLASH_2, FLASH_3), True, "cuda", "triton", "flash_attn_3"),
        (True, (FLASH_2, FLASH_3), False, "cuda", "triton", "flash_attn"),
        (True, (FLASH_2,), True, "cuda", "triton", "flash_attn"),
        (True, (), True, "cuda", "triton", "varlen"),
        (False, (), False, "cuda", "reference", "varlen"),
        (True, (FLASH_2, FLASH_3), True, "cpu", "reference", "blocked"),
        (False, (), False, "mps", "reference", "reference"),
    ],
)
def test_choice_by_device(
    monkeypatch: pytest.MonkeyPatch,
    triton: bool,
    flash: tuple[str, ...],
    hopper: bool,
    device: str,
    fused: str,
    attention: str,
) -> None:
    installed(monkeypatch, triton=triton, flash=flash, hopper=hopper)
    chosen = kernels.backends(device)
    assert chosen.pop("attention") == attention
    assert chosen.pop("attention in float32") == ("plain" if device == "cuda" else attention)
    assert chosen.keys() == set(FUSED_OPERATIONS) >= {"layer_norm", "stable_adamw"}
    assert set(chosen.values()) == {fused}


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mmbert.kernels"):
        backend("geglu", "cpu")
        backend("geglu", "cpu")
    assert caplog.messages == ["geglu on cpu: reference (the device is not a GPU)"]


def test_a_gpu_without_triton_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(monkeypatch, triton=False)
    with caplog.at_level(logging.WARNING, logger="mmbert.kernels"):
        backend("geglu", "cuda")
    assert "Triton is not installed" in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MMBERT_KERNELS", "cuda", "=cuda is unknown; choose 'reference' or 'triton'"),
        ("MMBERT_KERNELS", "triton", "Triton has no cpu backend"),
        (
            "MMBERT_ATTENTION",
            "flash",
            "one of flash_attn_3, flash_attn, varlen, plain, blocked, reference",
        ),
        ("MMBERT_ATTENTION", "varlen", "does not run on cpu"),
        ("MMBERT_ATTENTION", "flash_attn_3", "does not run on cpu"),
    ],
)
def test_impossible_wishes_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    installed(monkeypatch, triton=True)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        kernels.backends("cpu")


def test_wishes_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, triton=True)
    monkeypatch.setenv("MMBERT_KERNELS", "reference")
    monkeypatch.setenv("MMBERT_ATTENTION", "varlen")
    assert backend("geglu", "cuda") == "reference"
    assert backend("attention", "cuda", torch.bfloat16) == "varlen"


def test_forced_reference_attention_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, cu_seqlens = torch.randn(70, 3, 2, 16), cumulative((5, 1, 64), padding=2)
    blocked = kernels.attention(qkv, cu_seqlens, 64, 16)
    monkeypatch.setenv("MMBERT_ATTENTION", "reference")
    backend.cache_clear()
    torch.testing.assert_close(kernels.attention(qkv, cu_seqlens, 64, 16), blocked)


@pytest.mark.parametrize("name", ["flash_attn", "flash_attn_3"])
def test_flash_attention_that_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    installed(monkeypatch, triton=True)
    monkeypatch.setenv("MMBERT_ATTENTION", name)
    with pytest.raises(ValueError, match="is not installed"):
        backend("attention", "cuda", torch.bfloat16)


def test_a_flash_attn_without_version_2_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """flash-attn 4 alone installs a package of the same name without the required module."""
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_installed("flash_attn.cute")
    assert not is_installed(FLASH_2)
    assert not is_installed("no_such_package.at_all")
    for name in ("flash_attn.cute", "flash_attn"):
        sys.modules.pop(name, None)


def test_a_wheel_that_cannot_be_imported_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a wheel for another CUDA, with which the first step would fail."""
    (tmp_path / "flash_attn_interface.py").write_text(
        "raise ImportError('libcudart.so.12: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("mmbert_kernels.support.dispatch.is_hopper", lambda: True)
    assert backend("attention", "cuda", torch.bfloat16) != "flash_attn_3"
    assert "libcudart.so.12" in caplog.text


def test_what_lacks_a_package_that_it_needs_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a wheel installed without its dependencies."""
    (tmp_path / "some_attention.py").write_text("import a_package_that_is_not_here")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("some_attention")
    assert "a_package_that_is_not_here" in caplog.text
    caplog.clear()
    assert not is_installed("no_such_package.at_all")
    assert caplog.text == ""


@pytest.mark.parametrize("operation", ["layer_norm", "linear_cross_entropy"])
def test_the_cpu_runs_the_reference(operation: str) -> None:
    assert backend(operation, "cpu") == "reference"
    assert kernels.backends("cpu")[operation] == "reference"
