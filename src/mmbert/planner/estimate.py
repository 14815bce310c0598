"""The result of `mmbert plan`: cost of each phase, layouts, and the figures of the whole run."""

from dataclasses import dataclass

from mmbert.hardware import Gpu
from mmbert.model.flops import Flops
from mmbert.planner.communication import Communication
from mmbert.planner.languages import LanguageTable
from mmbert.planner.memory import DeviceMemory
from mmbert.planner.parameter_count import ParameterCount
from mmbert.recipe import Recipe
from mmbert.schedule import PhasePlan


@dataclass(frozen=True)
class PhaseCost:
    """One phase: its steps, arithmetic, traffic and time at the recipe's own layout.

    `mean_length` is the token-weighted mean document length that global attention was costed with.
    `communication_bound_gpus` is the smallest number of GPUs, doubling the data ranks from the
    present one, at which communication takes longer than arithmetic (None: not before a rank has
    less than one row).
    `step_seconds` is the mean over the phase, with the communication that nothing hides;
    `compute_seconds` the arithmetic of a step at its largest batch, which the traffic is of too.
    """

    steps: PhasePlan
    context: int
    mask_ratio: float
    mean_length: float
    flops: Flops
    communication: Communication
    step_seconds: float
    compute_seconds: float
    communication_bound_gpus: int | None

    @property
    def seconds(self) -> float:
        """Wall time of the phase."""
        return self.step_seconds * self.steps.steps

    @property
    def total_flops(self) -> float:
        """Training FLOPs of the phase."""
        return self.flops.total * self.steps.tokens


@dataclass(frozen=True)
class ParallelLayout:
    """A way to spread the model: memory at its peak over the phases, or why it is not possible."""

    tensor: int
    data: int
    zero_stage: int
    memory: DeviceMemory | None
    fits: bool
    chosen: bool
    infeasible_reason: str | None


@dataclass(frozen=True)
class Estimate:
    """Everything `mmbert plan` says."""

    recipe: Recipe
    gpu: Gpu
    gpus: int
    mfu: float
    vocabulary_size: int
    parameters: ParameterCount
    phases: tuple[PhaseCost, ...]
    layouts: tuple[ParallelLayout, ...]
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
