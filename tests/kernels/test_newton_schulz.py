"""Newton-Schulz against the polynomial of the singular values in float64."""

import pytest
import torch

from mmbert_kernels import NEWTON_SCHULZ_STEPS, newton_schulz
from tests.support.muon_formula import orthogonalized

SHAPES = [(24, 12), (12, 24), (16, 16), (96, 64), (1, 7), (7, 1)]
# Products of five steps in float32, where small singular values are amplified some 500 times.
FLOAT32 = 2e-5
# The input's rounding alone is 2 ** -9, amplified the same way.
BFLOAT16 = 6e-2


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 1e-3


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_quintic_follows_the_singular_values(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    given = matrix(*shape)
    found = newton_schulz(given.to(dtype), NEWTON_SCHULZ_STEPS["quintic"])
    assert found.dtype == dtype
    assert found.is_contiguous()
    error = relative(found, orthogonalized(given))
    print(f"{dtype} {shape}: {error:.1e}")
    assert error < tolerance


def test_bfloat16_is_not_exact() -> None:
    """Else the test above compares float32 with itself."""
    given = matrix(96, 64)
    found = newton_schulz(given.bfloat16(), NEWTON_SCHULZ_STEPS["quintic"])
    assert relative(found, orthogonalized(given)) > 1e-3


def test_polar_express_reaches_the_orthogonal_factor() -> None:
    """Its five steps bring singular values of at least 1e-2 of the norm within 13% of 1."""
    generator = torch.Generator().manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(48, 32, dtype=torch.float64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=generator))
    values = torch.logspace(-1.7, 0, 32, dtype=torch.float64)
    given = left @ torch.diag(values) @ right
    found = newton_schulz(given, NEWTON_SCHULZ_STEPS["polar_express"])
    reached = torch.linalg.svdvals(found)
    assert 0.87 < float(reached.min()) <= float(reached.max()) < 1.13
    quintic = torch.linalg.svdvals(newton_schulz(given, NEWTON_SCHULZ_STEPS["quintic"]))
    assert float(quintic.min()) < 0.8, "the two sets must differ"


def test_the_scale_does_not_matter_and_zero_stays_zero() -> None:
    for name, steps in NEWTON_SCHULZ_STEPS.items():
        one, thousand = (newton_schulz(matrix(24, 12) * scale, steps) for scale in (1, 1000))
        assert relative(thousand, one.double()) < 1e-4, name
        assert (newton_schulz(torch.zeros(24, 12), steps) == 0).all(), name
        tiny = newton_schulz(torch.full((24, 12), 1e-30), steps)
        assert tiny.isfinite().all(), name


def test_the_result_does_not_depend_on_where_the_matrix_lies() -> None:
    memory = torch.zeros(24 * 12 + 3)
    for offset in range(4):
        there = memory[offset : offset + 24 * 12].view(24, 12).copy_(matrix(24, 12))
        found = newton_schulz(there, NEWTON_SCHULZ_STEPS["quintic"])
        assert torch.equal(found, newton_schulz(matrix(24, 12), NEWTON_SCHULZ_STEPS["quintic"]))


def test_what_is_no_matrix_is_refused() -> None:
    for wrong in (torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="floating-point matrix"):
            newton_schulz(wrong, NEWTON_SCHULZ_STEPS["quintic"])
