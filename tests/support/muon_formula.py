"""Muon and NorMuon of whole matrices in float64, by singular values instead of matrix products."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

QUINTIC = [(3.4445, -4.7750, 2.0315)] * 5
MATRICES = {
    "qkv.weight": [(0, 24), (24, 48), (48, 72)],
    "out.weight": [(0, 12)],
    "gate.weight": [(0, 20), (20, 40)],
    "down.weight": [(0, 12)],
    "dense.weight": [(0, 12)],
}
"""Rows of the matrices of the model with prescribed gradients."""
PARTS = [(name, rows) for name, parts in MATRICES.items() for rows in parts]


def orthogonalized(u: Tensor, triples: list[tuple[float, float, float]] = QUINTIC) -> Tensor:
    """Return what Newton-Schulz computes of u [m, n], by its singular values."""
    left, values, right = torch.linalg.svd(u.double(), full_matrices=False)
    values = values / (values.norm() + 1e-7)
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
        o = orthogonalized(u)
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
