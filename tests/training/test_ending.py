"""Where a run ends that is to stop after a phase: there, however often it is started."""

from types import SimpleNamespace
from typing import Any

import pytest

from mmbert.parallel.host_group import HostGroup
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.loop import ExitReason, train

PHASES = (("first", 0, 10), ("second", 10, 16))


def trainer_at(step: int) -> Any:
    """A trainer that has come to `step`; that it should read rows is an error."""
    return SimpleNamespace(
        step=step,
        plan=SimpleNamespace(
            steps=16,
            phases=[
                SimpleNamespace(name=name, first_step=first, end_step=end)
                for name, first, end in PHASES
            ],
        ),
        recipe=SimpleNamespace(logging=SimpleNamespace(every_steps=1)),
        table=SimpleNamespace(names=()),
        host_group=HostGroup(0, 1),
        pending_requests=LoopRequests,
        heartbeat=lambda activity: None,
    )


@pytest.mark.parametrize(
    ("step", "phase", "exit_reason"),
    [
        (
            10,
            "first",
            ExitReason.PHASE_DONE,
        ),  # the process died between the phase's end and its own
        (16, "first", ExitReason.PHASE_DONE),
        (16, "second", ExitReason.FINISHED),
        (16, None, ExitReason.FINISHED),
    ],
)
def test_what_is_done_is_not_passed(step: int, phase: str | None, exit_reason: ExitReason) -> None:
    assert train(trainer_at(step), stop_after_phase=phase) is exit_reason
