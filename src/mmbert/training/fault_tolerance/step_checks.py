"""Record of what repetitions of steps have shown, in `RUN/step_checks.json`.

A repetition survives a restart: a spike is kept here until its step has run again.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mmbert.files import write_json
from mmbert.training.fault_tolerance.step_comparison import StepRun, Tolerance

FILE_NAME = "step_checks.json"


class Spike(BaseModel):
    """A spike whose steps run again from a checkpoint."""

    model_config = ConfigDict(frozen=True)

    step: int
    first_step: int
    """First step that runs again."""
    setup: str
    """Process grid, precision and device, without which losses cannot be compared to the bit."""
    run: StepRun


class StepChecks(BaseModel):
    """Contents of `RUN/step_checks.json`."""

    model_config = ConfigDict(frozen=True)

    tolerances: dict[str, Tolerance] = {}
    """Largest differences between repetitions of a sound step, by phase and setup."""
    repeated_spikes: int = 0
    """Spikes whose steps have been run again, or are to be."""
    spikes: tuple[Spike, ...] = ()
    """Spikes that are being repeated; several if steps that ran again had a new one."""
    accepted_spikes: tuple[int, ...] = ()
    """Steps of spikes that are decided and were left as they are."""

    @classmethod
    def read(cls, path: Path) -> "StepChecks":
        """Read the file at `path`; return an empty record if it does not exist."""
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """Replace the file atomically."""
        write_json(path, self.model_dump(mode="json", exclude_defaults=True))
