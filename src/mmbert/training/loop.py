"""The training loop.

The step number determines a step's rows, learning rate, weight decay, masks and dropout. So phase
changes need no special handling, a run resumes at any step, and a step is skipped by dropping its
rows.

A step that went wrong runs again: a non-finite one at once, a spike from the checkpoint before it.
What comes from the data or the numerics is the same then, and a fault of a host is not.

Requests to stop or save are all-reduced with a step's loss, without extra communication, and
handled before the next step.
"""

from enum import Enum

from mmbert.ownership import OwnershipLostError
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.trainer import LossCheck, Trainer


class ExitReason(Enum):
    """Why the training loop ended."""

    FINISHED = "all steps are done"
    PHASE_DONE = "the requested phase is done"
    STOPPED = "stop requested; everything is saved"


def train(trainer: Trainer, *, stop_after_phase: str | None = None) -> ExitReason:
    """Train from `trainer.step` to the end of the plan, or of the phase `stop_after_phase`."""
    plan = trainer.run.plan
    ends = {phase.name: phase.end_step for phase in plan.phases}
    end = plan.steps if stop_after_phase is None else ends[stop_after_phase]
    requests = trainer.sync_requests()
    while trainer.step < end:
        if (reason := handle_requests(trainer, requests)) is not None:
            return reason
        at = plan.at(trainer.step)
        trainer.start_phase(at)
        rows = trainer.next_rows(at)
        if at.step in trainer.skipped.steps:
            trainer.metrics.log_skipped(at)
            requests = trainer.sync_requests()
        else:
            outcome = trainer.train_step(at, rows)
            if not outcome.report.finite:
                outcome = trainer.repeat_step(at, rows, outcome)
            requests = outcome.requests.resolve(outcome.request_counts, trainer.ranks.host_group)
            check = trainer.check_loss(at, outcome, rows)
            if check is LossCheck.SPIKE and trainer.roll_back(at, rows, outcome):
                continue
        trainer.finish_step(at, rows)
    return ExitReason.FINISHED if end == plan.steps else ExitReason.PHASE_DONE


def handle_requests(trainer: Trainer, requests: LoopRequests) -> ExitReason | None:
    """Save, stop or abort at the request of any rank; return why the loop ends, or None.

    Raises:
        OwnershipLostError: the run folder has another owner; nothing more is written.
        UserError: metrics cannot be written; the state is saved.
    """
    if isinstance(requests.failure, OwnershipLostError):
        raise requests.failure
    if requests.failure is not None:
        trainer.save("metrics cannot be written")
        trainer.finish_saving()
        raise requests.failure
    if requests.stop is not None:
        trainer.save("stop requested")
        trainer.metrics.log_stopped(trainer.step, requests.stop)
        return ExitReason.STOPPED
    if requests.save:
        trainer.save("time")
    return None
