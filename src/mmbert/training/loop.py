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
from mmbert.recipe import Phase
from mmbert.schedule import StepPlan, learning_rate, weight_decay
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.fault_tolerance.watchdog import Activity
from mmbert.training.metrics_processor import Journal
from mmbert.training.train_step import StepOutcome
from mmbert.training.trainer import Session


class Ending(Enum):
    """How the loop came to its end."""

    FINISHED = "all steps are done"
    PHASE_DONE = "the phase asked for is done"
    STOPPED = "asked to stop; everything is saved"


def train(session: Session, *, stop_after_phase: str | None = None) -> Ending:
    """Train from `session.step` to the end of the plan (or of a phase), reporting and saving."""
    plan, journal = session.plan, Journal(session)
    ends = {phase.name: phase.end_step for phase in plan.phases}
    end = plan.steps if stop_after_phase is None else ends[stop_after_phase]
    requests = agree(session)
    while session.step < end:
        if requests.failure is not None:
            session.save("figures cannot be written")
            session.finish_saving()
            raise requests.failure
        if requests.stop is not None:
            session.save("asked to stop")
            journal.stopped(requests.stop)
            return Ending.STOPPED
        if requests.save:
            session.save("time")
        at = plan.at(session.step)
        phase_plan, phase = plan.phases[at.phase_index], session.recipe.phases[at.phase_index]
        if session.step == phase_plan.first_step or not journal.in_phase(phase_plan):
            journal.enter_phase(phase_plan)
        session.heartbeat(Activity.READ_ROWS)
        with session.clock.host("data"):
            rows = session.take_rows(at.rows)
        if session.step in session.skipped.steps:
            journal.passed_over(at)
            requests = agree(session)
        else:
            outcome = take_step(session, at, phase, rows)
            requests = outcome.requests.resolve(outcome.request_counts, session.host_group)
            if not judge(session, journal, at, outcome, rows):
                continue  # rolled back: the session stands at an earlier step
        session.step += 1
        journal.after_step(at)
        if session.sanity_is_due():
            session.heartbeat(Activity.COMPARE_RANKS)
            session.check_sanity(rows)
        if session.step == phase_plan.end_step:
            journal.leave_phase(phase_plan)
            session.save("end of phase", phase_end=True)
        elif session.save_is_due(at):
            session.save("token interval")
    return Ending.FINISHED if end == plan.steps else Ending.PHASE_DONE


def agree(session: Session) -> LoopRequests:
    """What the ranks want, in a message of its own: no training step has carried it."""
    session.heartbeat(Activity.SYNC_REQUESTS)
    own = session.pending_requests()
    return own.resolve(session.host_group.sum(own.flags()), session.host_group)


def take_step(session: Session, at: StepPlan, phase: Phase, rows: list[Row]) -> StepOutcome:
    """Train on one step's rows."""
    trace = session.profiler.step()
    if trace is not None:
        session.reporter.say(f"profiler trace: {trace}")
    session.heartbeat(Activity.TRAIN_STEP)
    return session.runner.run(
        rows,
        pending_requests=session.pending_requests,
        rotary_bases=phase.rotary_bases,
        dropout=session.recipe.dropout_in(phase),
        learning_rate=learning_rate(session.recipe, session.plan, at.step),
        weight_decay=weight_decay(session.recipe, session.plan, at.step),
    )


def judge(
    session: Session, journal: Journal, at: StepPlan, outcome: StepOutcome, rows: list[Row]
) -> bool:
    """Look at the step's numbers; False when the session was rolled back.

    Every rank sees the same figures and comes to the same conclusion.
    """
    if not outcome.report.finite:
        journal.not_finite(at, outcome, rows)
        session.loss_monitor.count_non_finite(at.step)
        return True
    journal.count(at, outcome, rows)
    if session.loss_monitor.is_spike(outcome.loss):
        journal.spike(at, outcome, rows)
        if session.recipe.guard.rollback and session.roll_back(at.step):
            journal.rolled_back()
            return False
    return True
