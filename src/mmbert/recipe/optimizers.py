"""Optimizers: their settings, and what they keep of each group of parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

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


class GroupLearningRates(Settings):
    """Peak learning rates of groups of parameters; schedule and phases scale them alike."""

    matrices: float | None = Field(default=None, gt=0)
    """Rate of the matrices of attention, feed-forward layers and head. Default: learning_rate."""
    embedding: float | None = Field(default=None, gt=0)
    """Rate of the embedding, which is also the decoder. Default: learning_rate."""
    rest: float | None = Field(default=None, gt=0)
    """Rate of norms and biases. Default: learning_rate."""


class OptimizerSettings(Settings):
    """StableAdamW as used by mmBERT, AdamW, or Muon or NorMuon with StableAdamW."""

    name: OptimizerName = "stable_adamw"
    """`stable_adamw` also clips each tensor's update by its RMS. `muon` and `normuon` orthogonalize
    the updates of the matrices of attention, feed-forward layers and head; `stable_adamw` updates
    embedding, norms and biases."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate; weight decay is scaled by the current rate over this."""
    group_learning_rates: GroupLearningRates | None = None
    """Peak learning rates of groups of parameters. A group's rate at a step is its rate here times
    the step's rate over `learning_rate`. Default: one rate for all."""
    betas: tuple[MomentDecay, MomentDecay] = (0.9, 0.95)
    """Decay rates of the first and second moments."""
    eps: float = Field(default=1e-8, gt=0, lt=1)
    """Term added to the square root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decoupled: a weight is multiplied by 1 − weight_decay · rate / learning_rate each step, in
    every group of parameters."""
    gradient_clipping: float | None = Field(default=None, gt=0)
    """Maximum L2 norm of the whole gradient. Default: no clipping."""
    muon: MuonSettings | None = None
    """Formula for the matrices; of `muon` and `normuon` only, which have its defaults."""

    @model_validator(mode="before")
    @classmethod
    def _fill_formula(cls, values: Any) -> Any:
        """Add what the formula takes by default, so that a checkpoint's recipe has all of it."""
        if not isinstance(values, dict) or values.get("name") not in MATRIX_OPTIMIZERS:
            return values
        formula = values.get("muon") or {}
        if values["name"] == "normuon" and isinstance(formula, Mapping):
            formula = {"beta2": 0.95, **formula}
        return values | {"muon": formula}

    @model_validator(mode="after")
    def _formula_fits(self) -> Self:
        """Refuse keys that the optimizer would not use."""
        muon, unused = self.muon, None
        if muon is not None and self.name not in MATRIX_OPTIMIZERS:
            unused = "muon"
        elif muon is not None and muon.beta2 is not None and self.name == "muon":
            unused = "muon.beta2"
        elif muon is not None and muon.scale == "original" and self.name == "normuon":
            unused = "muon.scale=original"
        if unused is not None:
            raise ValueError(
                f"optimizer.{unused} has no effect with optimizer.name={self.name}: remove it "
                "(an override that changes the optimizer needs optimizer.muon=null beside it)"
            )
        return self

    @property
    def rate_factors(self) -> dict[str, float]:
        """Learning rate over `learning_rate` of each group of parameters, 1.0 by default."""
        given = self.given_group_rates
        groups = GroupLearningRates.model_fields
        return {g: given.get(g, self.learning_rate) / self.learning_rate for g in groups}

    @property
    def given_group_rates(self) -> dict[str, float]:
        """The groups of parameters with a peak learning rate of their own, and these rates."""
        rates = self.group_learning_rates
        return {} if rates is None else rates.model_dump(exclude_none=True)

    def states_of(self, group: ParameterGroup) -> tuple[str, ...]:
        """Return the names of the optimizer's states per parameter of a group."""
        return OPTIMIZER_STATES[self.name][group]

    @property
    def row_states(self) -> tuple[str, ...]:
        """Names of the optimizer's states per row of a matrix."""
        return ROW_STATES.get(self.name, ())

    def bytes_of(self, group: ParameterGroup) -> int:
        """Return the bytes of a parameter's float32 master weight and optimizer states."""
        return 4 * (1 + len(self.states_of(group)))

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes of a parameter's float32 master weight and optimizer states, at most."""
        return max(self.bytes_of(group) for group in OPTIMIZER_STATES[self.name])
