"""The choice of implementations, and the attention libraries' calls by their signatures."""

import inspect
import logging
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.packed_attention.gpu import flash_attention, flash_attention_3, varlen_attention
from mmbert_kernels.support.dispatch import (
    ATTENTION_PACKAGES,
    backend,
    is_hopper,
    is_installed,
)
from tests.kernels.formulas import cumulative


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MMBERT_KERNELS", "MMBERT_ATTENTION", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    backend.cache_clear()
    yield
    backend.cache_clear()


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
    assert len(chosen) == 8
    assert set(chosen.values()) == {fused}


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mmbert.kernels"):
        backend("geglu", "cpu")
        backend("geglu", "cpu")
    assert caplog.messages == ["geglu on cpu: reference (the device is no GPU)"]


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
        ("MMBERT_KERNELS", "cuda", "'cuda'; it may be 'reference' or 'triton'"),
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
    """flash-attn 4 alone brings a package of the same name, without what is called here."""
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
    """Such as one for another CUDA: the first step would fail."""
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
    """As wheels do that were installed without their dependencies."""
    (tmp_path / "some_attention.py").write_text("import a_package_that_is_not_here")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("some_attention")
    assert "a_package_that_is_not_here" in caplog.text
    caplog.clear()
    assert not is_installed("no_such_package.at_all")
    assert caplog.text == ""


def published_flash_attention(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """flash_attn 2.8.3's flash_attn_varlen_qkvpacked_func, computing by the reference.

    flash-attn itself has no CPU build and has not been run by these tests.
    """
    assert dropout_p == 0.0
    assert softmax_scale is None
    assert not causal
    assert qkv.ndim == 4
    assert qkv.shape[1] == 3
    assert cu_seqlens.dtype == torch.int32
    window = None if window_size == (-1, -1) else 2 * window_size[0]
    assert window is None or window_size[0] == window_size[1]
    from mmbert_kernels.packed_attention.attention import attention_reference

    return attention_reference(qkv, cu_seqlens, window)


@pytest.mark.parametrize("window", [None, 16])
def test_flash_attention_is_called_as_published(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    fake = types.ModuleType("flash_attn")
    fake.flash_attn_varlen_qkvpacked_func = published_flash_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    qkv, cu_seqlens = torch.randn(70, 3, 2, 16).bfloat16(), cumulative((5, 1, 64), padding=2)
    computed = flash_attention(qkv, cu_seqlens, 64, window)
    blocked = kernels.attention(qkv, cu_seqlens, 64, window)
    torch.testing.assert_close(computed, blocked, rtol=2**-6, atol=2**-6)
    with pytest.raises(ValueError, match=r"bfloat16 or float16, not torch\.float32"):
        flash_attention(qkv.float(), cu_seqlens, 64, window)


def published_flash_attention_3(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    seqused_q: torch.Tensor | None = None,
    seqused_k: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: torch.Tensor | None = None,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """flash-attn 3's flash_attn_varlen_func, computing by the reference; as unexecuted as 2's."""
    assert cu_seqlens_q is cu_seqlens_k
    assert max_seqlen_q == max_seqlen_k
    assert seqused_q is seqused_k is qv is q_descale is k_descale is v_descale is None
    assert (attention_chunk, softcap, num_splits, pack_gqa, sm_margin) == (0, 0.0, 1, None, 0)
    qkv = torch.stack((q, k, v), dim=1)
    return published_flash_attention(
        qkv,
        cu_seqlens_q,
        max_seqlen_q,
        0.0,
        softmax_scale,
        causal,
        window_size,
        deterministic=deterministic,
        return_attn_probs=return_attn_probs,
    )


@pytest.mark.parametrize("window", [None, 16])
def test_flash_attention_3_is_called_as_published(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    fake = types.ModuleType("flash_attn_interface")
    fake.flash_attn_varlen_func = published_flash_attention_3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn_interface", fake)
    qkv = torch.randn(70, 3, 2, 16).bfloat16().requires_grad_()
    cu_seqlens = cumulative((5, 1, 64), padding=2)
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "attention": lambda qkv: kernels.attention(qkv, cu_seqlens, 64, window),
        "rotary_attention": lambda qkv: kernels.rotary_attention(qkv, cu_seqlens, 64, window, 1e4),
    }
    for call in calls.values():
        results = []
        for chosen in ("flash_attn_3", "blocked"):
            monkeypatch.setattr(
                sys.modules["mmbert_kernels.packed_attention.attention"],
                "backend",
                lambda name, device, dtype, chosen=chosen: chosen,
            )
            computed = call(qkv)
            (gradient,) = torch.autograd.grad(computed.square().sum(), qkv)
            results.append((computed, gradient))
        for flash, blocked in zip(*results, strict=True):
            # each goes through some intermediate results in bfloat16
            torch.testing.assert_close(flash, blocked, rtol=2**-5, atol=2**-5)


@pytest.mark.parametrize("name", ["flash_attn", "flash_attn_3"])
@pytest.mark.parametrize("wanted", [True, False])
def test_flash_attention_adds_in_a_fixed_order_when_torch_is_to(
    monkeypatch: pytest.MonkeyPatch, name: str, wanted: bool
) -> None:
    asked = []

    def attend(*_: Any, deterministic: bool, **__: Any) -> torch.Tensor:
        asked.append(deterministic)
        return torch.zeros(8, 2, 16)

    fake = types.ModuleType(name)
    fake.flash_attn_varlen_qkvpacked_func = attend  # type: ignore[attr-defined]
    fake.flash_attn_varlen_func = attend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", fake)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: wanted)
    qkv, cu_seqlens = torch.randn(8, 3, 2, 16).bfloat16(), cumulative((8,))
    if name == "flash_attn":
        flash_attention(qkv, cu_seqlens, 8, None)
    else:
        flash_attention_3(qkv.unbind(1), cu_seqlens, 8, None)
    assert asked == [wanted]


@pytest.mark.parametrize("window", [None, 128])
def test_varlen_attention_is_called_by_its_signature(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    from torch.nn.attention import varlen

    signature = inspect.signature(varlen.varlen_attn)
    calls = []

    def recorded(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(signature.bind(*arguments, **named).arguments)
        return arguments[0]

    monkeypatch.setattr(varlen, "varlen_attn", recorded)
    qkv, cu_seqlens = torch.randn(70, 3, 2, 16).bfloat16(), cumulative((5, 1, 64))
    varlen_attention(qkv.unbind(1), cu_seqlens, 64, window)
    (call,) = calls
    assert call["max_q"] == call["max_k"] == 64
    assert call["cu_seq_q"] is call["cu_seq_k"] is cu_seqlens
    assert call["window_size"] == ((-1, -1) if window is None else (64, 64))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["varlen", "flash_attn", "flash_attn_3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 128])
def test_attention_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, window: int | None
) -> None:
    from tests.kernels import formulas, layouts
    from tests.kernels.comparison import compare

    package = ATTENTION_PACKAGES[name]
    if package is not None and not is_installed(package):
        pytest.skip(f"{package} is not installed")
    if name == "flash_attn_3" and not is_hopper():
        pytest.skip("flash-attn 3 is for Hopper chips")
    monkeypatch.setenv("MMBERT_ATTENTION", name)
    lengths = (*formulas.LENGTHS, 1024, 5)
    tokens = sum(lengths)
    qkv = torch.randn(tokens, 3, 2, 64, device="cuda").to(dtype)
    for layout in (torch.Tensor.contiguous, layouts.transposed, layouts.apart):
        compare(
            lambda qkv: kernels.attention(qkv, cumulative(lengths, 3, "cuda"), 1024, window),
            lambda qkv: formulas.attention(qkv, lengths, window),
            (layout(qkv),),
            (torch.randn(tokens, 2, 64, device="cuda"),),
            roundings=8,
        )
        compare(
            lambda qkv: kernels.rotary_attention(
                qkv, cumulative(lengths, 3, "cuda"), 1024, window, 160_000.0
            ),
            lambda qkv: formulas.attention(
                formulas.rotary(qkv, lengths, 160_000.0), lengths, window
            ),
            (layout(qkv),),
            (torch.randn(tokens, 2, 64, device="cuda"),),
            roundings=16,
        )
    assert kernels.attention(qkv[:0], cumulative((0,), 0, "cuda"), 0, window).shape[0] == 0
