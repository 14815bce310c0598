"""Newton-Schulz orthogonalization of one matrix, the update of Muon.

For U [m, n], transposed first if m > n, and a set of triples (a, b, c):

    X = U / (margin * ||U||_F + 1e-7)
    for each triple:   A = X X^T      X = a X + (b A + c A A) X

Every step maps each singular value s of X to a s + b s^3 + c s^5 and keeps its vectors. The result
is near the orthogonal factor of U, with singular values in about 0.7 to 1.2, except that of small
ones (below about 1e-2 of the norm) which stay smaller. It does not depend on the scale of U, but of
U = 0 is 0 and of norms near 1e-7 and below is smaller.

    quintic        5 times Keller Jordan's triple (kellerjordan.github.io/posts/muon); margin 1
    polar_express  the first 5 triples of Amsel et al. 2025 (arXiv 2505.16932, algorithm 1), with
                   its safety factor 1.01 in triples and margin

Products are computed in the dtype of U, sums within them in float32 (or float64), the norm in
float32. There is one call per matrix and no batch, so that the shapes of the products, and with
them the bits of the result, depend on neither the number of ranks nor the other matrices.
Products of whole matrices are all of the work, and PyTorch's have no faster replacement here: the
operation has no kernel of its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmbert_kernels.support.checks import computation_dtype, require

LEAST_NORM = 1e-7
"""Added to the norm, so that of a zero matrix the result is zero."""


class NewtonSchulzSteps(NamedTuple):
    """Triples (a, b, c) of the steps, and the factor of the norm by which they are preceded."""

    triples: tuple[tuple[float, float, float], ...]
    margin: float = 1.0


def _safe(factor: float, *triples: tuple[float, float, float]) -> NewtonSchulzSteps:
    """Return steps that stay stable if rounding makes singular values larger by `factor`."""
    return NewtonSchulzSteps(
        tuple((a / factor, b / factor**3, c / factor**5) for a, b, c in triples), factor
    )


NEWTON_SCHULZ_STEPS: dict[str, NewtonSchulzSteps] = {
    "quintic": NewtonSchulzSteps(((3.4445, -4.7750, 2.0315),) * 5),
    "polar_express": _safe(
        1.01,
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    ),
}
"""Steps by the name of the recipe's coefficients."""


@torch.no_grad()
def newton_schulz(matrix: Tensor, steps: NewtonSchulzSteps) -> Tensor:
    """Return the approximate orthogonal factor of a matrix.

    Args:
        matrix: floating point [m, n]; unchanged. Finite, else the result is not either.
        steps: a value of `NEWTON_SCHULZ_STEPS`.

    Returns:
        Contiguous [m, n] of the same dtype.

    Raises:
        ValueError: `matrix` is no floating-point matrix.
    """
    require(
        matrix.ndim == 2 and matrix.is_floating_point(),
        f"Newton-Schulz takes a floating-point matrix; got {matrix.dtype}{list(matrix.shape)}",
    )
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.mT if tall else matrix).to(computation_dtype(matrix.dtype))
    # A new tensor, whose memory is aligned the same way wherever the matrix lies.
    x = (wide / (wide.norm() * steps.margin + LEAST_NORM)).to(matrix.dtype).contiguous()
    for a, b, c in steps.triples:
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).contiguous()
