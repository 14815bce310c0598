"""A run with a last phase stops after it, however often it is started."""

from types import SimpleNamespace
from typing import Any

import pytest

from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.loop import ExitReason, train

PHASES = (("first", 0, 10), ("second", 10, 16))


def trainer_at(step: int) -> Any:
    """A trainer before `step` that cannot train."""
    phases = [
        SimpleNamespace(name=name, first_step=first, end_step=end) for name, first, end in PHASES
    ]
    return SimpleNamespace(
        step=step,
        run=SimpleNamespace(plan=SimpleNamespace(steps=16, phases=phases)),
        sync_requests=LoopRequests,
    )


@pytest.mark.parametrize(
    ("step", "phase", "exit_reason"),
    [
        # The process died after the end of the phase, before its own.
        (10, "first", ExitReason.PHASE_DONE),
        (16, "first", ExitReason.PHASE_DONE),
        (16, "second", ExitReason.FINISHED),
        (16, None, ExitReason.FINISHED),
    ],
)
def test_what_is_done_is_not_passed(step: int, phase: str | None, exit_reason: ExitReason) -> None:
    assert train(trainer_at(step), stop_after_phase=phase) is exit_reason
