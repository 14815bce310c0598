"""Fixtures of the kernels' tests."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mmbert_kernels.support.dispatch import backend
from mmbert_kernels.support.triton_import import FP_FUSION
from tests.kernels.compilation import (
    SHARED_MEMORY,
    Compiled,
    FakeDriver,
    check_resources,
    narrow_products,
)
from tests.kernels.on_triton import DEVICE


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fix the seed and fill uninitialized memory with NaN."""
    torch.manual_seed(21)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def triton_on_poisoned_memory(
    monkeypatch: pytest.MonkeyPatch, poisoned_memory: None
) -> Iterator[None]:
    """Choose Triton, fix the seed and fill uninitialized memory with NaN."""
    monkeypatch.setenv("MMBERT_KERNELS", "triton")
    backend.cache_clear()
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    backend.cache_clear()


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clear the cached choice of backends and the environment variables that override it."""
    for name in ("MMBERT_KERNELS", "MMBERT_ATTENTION", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    backend.cache_clear()
    yield
    backend.cache_clear()


@pytest.fixture(params=[80, 90])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    """Compile kernels instead of launching them; provides a list of (name, compiled kernel)."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    launched: list[str] = []
    launches: Compiled = []
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, warmup: bool, **options: Any) -> Any:
        assert options["enable_fp_fusion"] is FP_FUSION, self.__name__
        launched.append(self.__name__)
        kernel = run(self, *arguments, warmup=True, **options)
        launches.append((self.__name__, kernel))
        return kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr("mmbert_kernels.support.dispatch.triton_interprets", lambda: True)
    monkeypatch.setenv("MMBERT_KERNELS", "triton")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")  # so that the default would fail
    backend.cache_clear()
    monkeypatch.setattr(driver, "_active", FakeDriver(request.param))
    yield launches
    backend.cache_clear()
    target = f".target sm_{request.param}" + ("a" if request.param == 90 else "")
    assert launched
    for name, kernel in launches:
        assert target in kernel.asm["ptx"], name
        assert kernel.metadata.enable_fp_fusion is FP_FUSION, name
        assert len(kernel.asm["cubin"]) > 1000, name
        assert kernel.metadata.shared <= SHARED_MEMORY[request.param], name
        assert narrow_products(kernel.asm["ttir"]) == [], name
    for name, kernel in {id(kernel): (name, kernel) for name, kernel in launches}.values():
        check_resources(name, kernel)
