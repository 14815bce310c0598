"""Names of the optimizers, what they keep of each group of parameters, and Muon's settings."""

from typing import Annotated, Literal

from pydantic import Field

from mmbert.recipe.base import Settings

ParameterGroup = Literal["matrices", "embedding", "rest"]
"""Groups of parameters that optimizers treat differently: the matrices of linears between hidden
states, the embedding (the tied decoder), and the rest: norms and biases."""

OptimizerName = Literal["stable_adamw", "adamw", "muon", "normuon"]
MATRIX_OPTIMIZERS: tuple[OptimizerName, ...] = ("muon", "normuon")
"""Optimizers that orthogonalize the updates of whole matrices; the rest is StableAdamW's."""

_MOMENTS = ("exp_avg", "exp_avg_sq")
_OF_ALL: dict[ParameterGroup, tuple[str, ...]] = {
    "matrices": _MOMENTS,
    "embedding": _MOMENTS,
    "rest": _MOMENTS,
}
OPTIMIZER_STATES: dict[OptimizerName, dict[ParameterGroup, tuple[str, ...]]] = {
    "stable_adamw": _OF_ALL,
    "adamw": _OF_ALL,
    "muon": _OF_ALL | {"matrices": ("exp_avg",)},
    "normuon": _OF_ALL | {"matrices": ("exp_avg",)},
}
"""float32 tensors that an optimizer keeps per parameter of a group, besides the master weight."""
ROW_STATES: dict[OptimizerName, tuple[str, ...]] = {"normuon": ("row_exp_avg_sq",)}
"""float32 vectors that an optimizer keeps per matrix, with a value for each of its rows."""

MomentDecay = Annotated[float, Field(ge=0, lt=1)]


class MuonSettings(Settings):
    """Formula of `muon` and `normuon` for the matrices (kernels/mmbert_kernels/newton_schulz.py).

    Query, key and value, and gate and up, are matrices of their own.
    """

    momentum: MomentDecay = 0.95
    """Decay rate of the average of gradients, without bias correction."""
    nesterov: bool = True
    """Orthogonalize the average with this step's gradient added once more."""
    coefficients: Literal["quintic", "polar_express"] = "quintic"
    """Five Newton–Schulz steps: `quintic` are Keller Jordan's, five times the same; `polar_express`
    are the first five of Amsel et al. 2025."""
    scale: Literal["match_rms", "original"] = "match_rms"
    """Size of an m × n update: `match_rms` has a root mean square of about 0.2 · rate, near
    Adam's (factor 0.2 · √max(m, n); `normuon`: exactly 0.2 · rate); `original` is √max(1, m / n)
    times the orthogonalized matrix, and of `muon` only."""
    beta2: MomentDecay | None = None
    """Decay rate of each row's mean square in `normuon`, of which alone it is. Default: 0.95."""
