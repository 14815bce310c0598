"""Muon and NorMuon of whole matrices in float64, by singular values instead of matrix products."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

QUINTIC = ((3.4445, -4.7750, 2.0315),) * 5
# The first five of Amsel et al. 2025, divided by powers of their safety factor.
POLAR_EXPRESS = tuple(
    (a / 1.01, b / 1.01**3, c / 1.01**5)
    for a, b, c in (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    )
)
Triples = tuple[tuple[float, float, float], ...]
MATRICES = {
    "qkv.weight": [(0, 24), (24, 48), (48, 72)],
    "out.weight": [(0, 12)],
    "gate.weight": [(0, 20), (20, 40)],
    "down.weight": [(0, 12)],
    "dense.weight": [(0, 12)],
}
"""Rows of the matrices of the model with prescribed gradients."""
PARTS = [(name, rows) for name, parts in MATRICES.items() for rows in parts]


def orthogonalized(u: Tensor, triples: Triples = QUINTIC, margin: float = 1.0) -> Tensor:
    """Return what Newton-Schulz computes of u [m, n], by its singular values."""
    left, values, right = torch.linalg.svd(u.double(), full_matrices=False)
    values = values / (margin * values.norm() + 1e-7)
    for a, b, c in triples:
        values = a * values + b * values**3 + c * values**5
    return left @ torch.diag(values) @ right


@dataclass
class Formula:
    """One matrix and its states, in float64."""

    weight: Tensor
    normalized: bool
    """Whether it is NorMuon."""
    nesterov: bool = True
    momentum: float = 0.95
    beta2: float = 0.95
    original_scale: bool = False
    triples: Triples = QUINTIC
    margin: float = 1.0
    average: Tensor = field(init=False)
    rows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weight = self.weight.double()
        self.average = torch.zeros_like(self.weight)
        self.rows = self.weight.new_zeros(len(self.weight))

    def step(self, gradient: Tensor, rate: float, decay: float) -> Tensor:
        """Update by the gradient; return the update without the decay.

        `decay`: of the weight in this step, relative to it.
        """
        gradient, rest = gradient.double(), 1 - self.momentum
        self.average = self.momentum * self.average + rest * gradient
        u = self.momentum * self.average + rest * gradient if self.nesterov else self.average
        o = orthogonalized(u, self.triples, self.margin)
        m, n = o.shape
        if self.normalized:
            self.rows = self.beta2 * self.rows + (1 - self.beta2) * (o**2).mean(1)
            o = o / (self.rows.sqrt() + 1e-8)[:, None]
            update = 0.2 * rate * math.sqrt(m * n) / o.norm() * o
        elif self.original_scale:
            update = rate * math.sqrt(max(1.0, m / n)) * o
        else:
            update = 0.2 * rate * math.sqrt(max(m, n)) * o
        self.weight = self.weight * (1 - decay) - update
        return update
