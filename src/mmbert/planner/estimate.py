"""Result types of `mmbert plan`: phase costs, parallel layouts and totals of the run."""

from dataclasses import dataclass

from mmbert.hardware import Gpu
from mmbert.model.flops import Flops
from mmbert.planner.communication import Communication
from mmbert.planner.languages import LanguageTable
from mmbert.planner.matrix_exchange import RoutingCost
from mmbert.planner.memory import DeviceMemory
from mmbert.planner.parameter_count import ParameterCount
from mmbert.recipe import Recipe
from mmbert.schedule import PhasePlan


@dataclass(frozen=True)
class PhaseCost:
    """Compute, communication and time of one phase in the recipe's own layout.

    `predicted_fraction` is the mask ratio, or in a causal phase the predicted share. `mean_length`
    is the token-weighted mean document length, used for the cost of global attention.
    `communication_bound_gpus` is the smallest number of GPUs, doubling the data ranks from the
    present one, at which communication takes longer than arithmetic; None if a rank would have less
    than one row.
    `step_seconds` is the mean over the phase, including exposed communication and
    `matrix_seconds`, the time of Muon's updates of matrices; `compute_seconds` and `communication`
    are those of a step with the phase's largest batch.
    """

    steps: PhasePlan
    context: int
    predicted_fraction: float
    causal: bool
    mean_length: float
    flops: Flops
    communication: Communication
    step_seconds: float
    compute_seconds: float
    communication_bound_gpus: int | None
    matrix_seconds: float

    @property
    def seconds(self) -> float:
        """Wall time of the phase in seconds."""
        return self.step_seconds * self.steps.steps

    @property
    def total_flops(self) -> float:
        """Training FLOPs of the phase."""
        return self.flops.total * self.steps.tokens


@dataclass(frozen=True)
class ParallelLayout:
    """A tensor, data and ZeRO configuration with its peak memory over the phases.

    `memory` is None if the layout is infeasible, for the reason in `infeasible_reason`; `chosen`
    marks the recipe's own.
    """

    tensor: int
    data: int
    zero_stage: int
    memory: DeviceMemory | None
    fits: bool
    chosen: bool
    infeasible_reason: str | None


@dataclass(frozen=True)
class Estimate:
    """Complete result of `mmbert plan`."""

    recipe: Recipe
    gpu: Gpu
    gpus: int
    mfu: float
    vocabulary_size: int
    parameters: ParameterCount
    phases: tuple[PhaseCost, ...]
    layouts: tuple[ParallelLayout, ...]
    matrix_exchange: RoutingCost | None
    """Cost of Muon's updates of matrices in a step; None with other optimizers."""
    languages: LanguageTable | None
    checkpoint_bytes: int
    checkpoints_written: int
    checkpoints_kept: int
    length_origin: str
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Wall time of all phases, in seconds."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def gpu_hours(self) -> float:
        """Wall time times GPUs, in hours."""
        return self.seconds * self.gpus / 3600

    @property
    def total_flops(self) -> float:
        """Training FLOPs of all phases."""
        return sum(phase.total_flops for phase in self.phases)
