"""The training loop: for each step: rows, passes, optimiser step, and what is due.

It reads from top to bottom like the algorithm it is. All that a step needs follows from its number:
its rows, learning rate, weight decay, masks and dropout. So moving to the next phase is no event
for the loop, continuing after a restart is to begin at another number, and skipping a step is to
pass over its rows.

Between two ordinary steps the ranks send each other nothing: that one of them wants to stop or save
is read with a step's loss, and done before the next step.
"""

from enum import Enum

from mmbert.data.loading.rows import Row
from mmbert.schedule import StepPlan, step_settings
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.fault_tolerance.watchdog import Activity
from mmbert.training.metrics_processor import MetricsProcessor
from mmbert.training.train_step import StepOutcome
from mmbert.training.trainer import Trainer


class ExitReason(Enum):
    """How the loop came to its end."""

    FINISHED = "all steps are done"
    PHASE_DONE = "the phase asked for is done"
    STOPPED = "asked to stop; everything is saved"


def train(trainer: Trainer, *, stop_after_phase: str | None = None) -> ExitReason:
    """Train from `trainer.step` to the end of the plan (or of a phase), reporting and saving."""
    plan, metrics = trainer.plan, MetricsProcessor(trainer)
    ends = {phase.name: phase.end_step for phase in plan.phases}
    end = plan.steps if stop_after_phase is None else ends[stop_after_phase]
    requests = sync_requests(trainer)
    while trainer.step < end:
        if requests.failure is not None:
            trainer.save("figures cannot be written")
            trainer.finish_saving()
            raise requests.failure
        if requests.stop is not None:
            trainer.save("asked to stop")
            metrics.log_stopped(requests.stop)
            return ExitReason.STOPPED
        if requests.save:
            trainer.save("time")
        at = plan.at(trainer.step)
        phase_plan = plan.phases[at.phase_index]
        if trainer.step == phase_plan.first_step or not metrics.in_phase(phase_plan):
            metrics.start_phase(phase_plan)
        trainer.heartbeat(Activity.READ_ROWS)
        with trainer.step_timer.host("data"):
            rows = trainer.next_rows(at.rows)
        if trainer.step in trainer.skipped.steps:
            metrics.log_skipped(at)
            requests = sync_requests(trainer)
        else:
            outcome = take_step(trainer, at, rows)
            requests = outcome.requests.resolve(outcome.request_counts, trainer.host_group)
            if not check_loss(trainer, metrics, at, outcome, rows):
                continue  # rolled back: the trainer stands at an earlier step
        trainer.step += 1
        metrics.after_step(at)
        if trainer.sanity_is_due():
            trainer.heartbeat(Activity.COMPARE_RANKS)
            trainer.check_sanity(rows)
        if trainer.step == phase_plan.end_step:
            metrics.end_phase(phase_plan)
            trainer.save("end of phase", phase_end=True)
        elif trainer.save_is_due(at):
            trainer.save("token interval")
    return ExitReason.FINISHED if end == plan.steps else ExitReason.PHASE_DONE


def sync_requests(trainer: Trainer) -> LoopRequests:
    """What the ranks want, in a message of its own: no training step has carried it."""
    trainer.heartbeat(Activity.SYNC_REQUESTS)
    return trainer.pending_requests().sync(trainer.host_group)


def take_step(trainer: Trainer, at: StepPlan, rows: list[Row]) -> StepOutcome:
    """Train on one step's rows."""
    trace = trainer.profiler.step()
    if trace is not None:
        trainer.loggers.message(f"profiler trace: {trace}")
    trainer.heartbeat(Activity.TRAIN_STEP)
    return trainer.runner.run(
        rows,
        step_settings(trainer.recipe, trainer.plan, at.step),
        pending_requests=trainer.pending_requests,
    )


def check_loss(
    trainer: Trainer, metrics: MetricsProcessor, at: StepPlan, outcome: StepOutcome, rows: list[Row]
) -> bool:
    """Look at the step's numbers; False when the trainer was rolled back.

    Every rank sees the same figures and comes to the same conclusion.
    """
    if not outcome.report.finite:
        metrics.log_non_finite(at, outcome, rows)
        trainer.loss_monitor.count_non_finite(at.step)
        return True
    metrics.count_step(at, outcome, rows)
    if trainer.loss_monitor.is_spike(outcome.loss):
        metrics.log_spike(at, outcome, rows)
        if trainer.recipe.guard.rollback and trainer.roll_back(at.step):
            metrics.rewind()
            return False
    return True
