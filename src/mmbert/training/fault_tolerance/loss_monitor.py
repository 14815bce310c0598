"""Detection of non-finite steps and loss spikes, and the record of skipped steps.

Every rank runs the same monitor on the same all-reduced values, so all ranks reach the same
decision without communicating. Skipped steps are kept in `RUN/skipped_steps.json` rather than in
the checkpoint that a rollback returns to, which does not know of it.
"""

import statistics
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, NonNegativeInt, ValidationError

from mmbert.errors import DivergenceError, ResumeError
from mmbert.files import write_json
from mmbert.recipe import GuardSettings

NON_FINITE_WINDOW = 1000
# Lower bound of the standard deviation relative to the median loss, so that small fluctuations on a
# plateau do not count as spikes.
MIN_RELATIVE_STD = 0.01
# Losses needed in the window before a loss can count as a spike.
MIN_HISTORY = 10


@dataclass
class LossMonitor:
    """Detects loss spikes and counts non-finite steps.

    `history` holds losses of the current phase only, because mask ratio and languages, and thus
    the level of the loss, change between phases.
    """

    settings: GuardSettings
    history: deque[float] = field(default_factory=deque)
    non_finite_steps: deque[int] = field(default_factory=deque)

    def start_phase(self) -> None:
        """Clear the losses of the previous phase."""
        self.history.clear()

    def count_non_finite(self, step: int) -> None:
        """Count a step with a non-finite loss or gradient.

        Raises:
            DivergenceError: the last thousand steps contain more of them than the recipe allows.
        """
        self.non_finite_steps.append(step)
        while self.non_finite_steps and self.non_finite_steps[0] <= step - NON_FINITE_WINDOW:
            self.non_finite_steps.popleft()
        if len(self.non_finite_steps) > self.settings.non_finite_limit:
            raise DivergenceError(
                f"the loss or gradient was not finite in {len(self.non_finite_steps)} of the last "
                f"{NON_FINITE_WINDOW} steps, most recently in step {step} "
                f"(guard.non_finite_limit is {self.settings.non_finite_limit})",
                remedy="inspect the logged rows (mmbert inspect --step), lower the learning rate "
                "or set optimizer.gradient_clipping, and resume from the last checkpoint",
            )

    def is_spike(self, loss: float) -> bool:
        """Return whether `loss` is a spike; otherwise add it to the window."""
        threshold = self.settings.spike_threshold
        if threshold is None:
            return False
        spike = False
        if len(self.history) >= MIN_HISTORY:
            median = statistics.median(self.history)
            mad = statistics.median(abs(value - median) for value in self.history)
            # The standard deviation of a normal distribution is 1.4826 times its MAD.
            std = max(1.4826 * mad, MIN_RELATIVE_STD * abs(median))
            spike = loss > median + threshold * std
        if not spike:
            self.history.append(loss)
            while len(self.history) > self.settings.spike_window:
                self.history.popleft()
        return spike

    def state_dict(self) -> dict[str, list[float] | list[int]]:
        """Return the state to checkpoint, so that a resumed run detects the same spikes."""
        return {"history": list(self.history), "skipped": list(self.non_finite_steps)}

    def load_state_dict(self, state: dict[str, list[float] | list[int]]) -> None:
        """Restore the state returned by `state_dict`."""
        self.history = deque(float(value) for value in state["history"])
        self.non_finite_steps = deque(int(value) for value in state["skipped"])


class _Kept(BaseModel):
    steps: list[NonNegativeInt]
    rollbacks: NonNegativeInt


@dataclass
class SkippedSteps:
    """Steps skipped after rollbacks, stored in a file that every rank reads."""

    path: Path
    steps: set[int] = field(default_factory=set)
    rollbacks: int = 0

    @classmethod
    def read(cls, run_folder: Path) -> "SkippedSteps":
        """Read the file in `run_folder`; return an empty record if it does not exist.

        Raises ResumeError if it is damaged.
        """
        path = run_folder / "skipped_steps.json"
        if not path.exists():
            return cls(path)
        try:
            kept = _Kept.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ResumeError(
                f"{path} is damaged: {error.errors(include_url=False)[0]['msg']}",
                remedy="restore it from a copy; it lists the steps that the run skipped, which it "
                "would otherwise train",
            ) from error
        return cls(path, set(kept.steps), kept.rollbacks)

    def add(self, steps: range) -> None:
        """Record a rollback that skips `steps`, on every rank; rank 0 then calls `write`."""
        self.steps |= set(steps)
        self.rollbacks += 1

    def write(self) -> None:
        """Replace the file atomically."""
        values = {"steps": sorted(self.steps), "rollbacks": self.rollbacks}
        write_json(self.path, values)
