"""Numbers that go wrong: steps that are not finite, spikes of the loss, and which steps to skip.

Every rank runs the same guard on the same (all-reduced) figures, so all decide alike without
another word. What was decided is kept in `RUN/skipped_steps.json`, because a rollback outlives the
checkpoint it goes back to.
"""

import json
import statistics
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from mmbert.errors import UserError
from mmbert.files import write_json
from mmbert.recipe import GuardSettings

NON_FINITE_WINDOW = 1000
# The spread of the window's losses is taken as at least this share of their median, or a plateau of
# almost equal losses would make every ripple a spike.
MIN_RELATIVE_STD = 0.01
# How many of the window's losses must be there before anything counts as a spike.
MIN_HISTORY = 10


@dataclass
class LossMonitor:
    """Judges the loss of each step. `history` holds the losses of the current phase only: the mask
    ratio and the languages of another phase give another level."""

    settings: GuardSettings
    history: deque[float] = field(default_factory=deque)
    non_finite_steps: deque[int] = field(default_factory=deque)

    def start_phase(self) -> None:
        """Forget the losses of the phase before."""
        self.history.clear()

    def count_non_finite(self, step: int) -> None:
        """Count a step that was not finite.

        Raises:
            UserError: more of them than the recipe allows within the last thousand steps.
        """
        self.non_finite_steps.append(step)
        while self.non_finite_steps and self.non_finite_steps[0] <= step - NON_FINITE_WINDOW:
            self.non_finite_steps.popleft()
        if len(self.non_finite_steps) > self.settings.non_finite_limit:
            raise UserError(
                f"{len(self.non_finite_steps)} steps of the last {NON_FINITE_WINDOW} had a loss or "
                "gradient that is not finite (guard.non_finite_limit "
                f"{self.settings.non_finite_limit}); the latest is step {step}",
                remedy="look at the rows logged (mmbert inspect --step), lower the learning rate, "
                "or set optimizer.gradient_clipping; then start again from the last checkpoint",
            )

    def is_spike(self, loss: float) -> bool:
        """Whether `loss` stands out of the running window; a loss that does not joins it."""
        threshold = self.settings.spike_threshold
        if threshold is None:
            return False
        spike = False
        if len(self.history) >= MIN_HISTORY:
            median = statistics.median(self.history)
            mad = statistics.median(abs(value - median) for value in self.history)
            # 1.4826 times the median deviation is the standard deviation of a normal distribution.
            std = max(1.4826 * mad, MIN_RELATIVE_STD * abs(median))
            spike = loss > median + threshold * std
        if not spike:
            self.history.append(loss)
            while len(self.history) > self.settings.spike_window:
                self.history.popleft()
        return spike

    def state_dict(self) -> dict[str, list[float] | list[int]]:
        """What a checkpoint keeps, so that a continued run judges as an undisturbed one."""
        return {"history": list(self.history), "skipped": list(self.non_finite_steps)}

    def load_state_dict(self, state: dict[str, list[float] | list[int]]) -> None:
        """Take over what `state_dict()` gave."""
        self.history = deque(float(value) for value in state["history"])
        self.non_finite_steps = deque(int(value) for value in state["skipped"])


@dataclass
class SkippedSteps:
    """Steps whose rows are passed over after a rollback, in a file that every rank reads."""

    path: Path
    steps: set[int] = field(default_factory=set)
    rollbacks: int = 0

    @classmethod
    def read(cls, run_folder: Path) -> "SkippedSteps":
        """The file of `run_folder`, or nothing skipped when there is none."""
        path = run_folder / "skipped_steps.json"
        if not path.exists():
            return cls(path)
        values = json.loads(path.read_text())
        return cls(path, set(values["steps"]), int(values["rollbacks"]))

    def add(self, steps: range) -> None:
        """Note one more rollback, past `steps` (every rank; `write` by one)."""
        self.steps |= set(steps)
        self.rollbacks += 1

    def write(self) -> None:
        """Put the file in place at once, so that a crash leaves the old one or the new one."""
        values = {"steps": sorted(self.steps), "rollbacks": self.rollbacks}
        write_json(self.path, values)
