"""Causes told apart, and what follows from each; pure functions."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.cluster.restart.failure_cause import (
    RESTARTS_WITHOUT_CHECKPOINT,
    Action,
    Cause,
    Outcome,
    action_after,
    cause_of,
)
from mmbert.cluster.restart.placement import place_all
from mmbert.journals.rank_failures import FailureKind, RankFailure

AT = place_all(("n1", "n2"), 2)


def failure(rank: int, kind: FailureKind, text: str = "", when: float = 1.0) -> RankFailure:
    return RankFailure(rank=rank, kind=kind, host="n1", text=text, unix_time=when)


PEERS = tuple(failure(rank, FailureKind.PEER) for rank in (0, 1, 3))


@pytest.mark.parametrize(
    ("outcome", "cause", "said"),
    [
        (Outcome(0, AT), Cause.DONE, "done"),
        (Outcome(75, AT), Cause.SAVED, "saved"),
        (Outcome(138, AT, asked_to_stop=True), Cause.SAVED, "stopped during startup"),
        (Outcome(2, AT), Cause.USER_ERROR, "error that you can fix"),
        (
            Outcome(1, AT, [*PEERS, failure(2, FailureKind.NO_SPACE, "x")]),
            Cause.NO_SPACE,
            "no space left on the disk: rank 2 on n1: x",
        ),
        (
            Outcome(137, AT, PEERS),
            Cause.KILLED,
            "killed: SIGKILL of rank 2 on n2, often for lack of host memory",
        ),
        (Outcome(139, AT, PEERS), Cause.KILLED, "killed: SIGSEGV of rank 2 on n2"),
        (
            Outcome(137, AT),
            Cause.KILLED,
            "killed: SIGKILL, often for lack of host memory; the first `Killed` in the log names "
            "the rank",
        ),
        (Outcome(138, AT, PEERS), Cause.KILLED, "killed: SIGUSR1 of rank 2 on n2"),
        # Ranks that hung after the first failure are killed by srun.
        (
            Outcome(
                137,
                AT,
                [
                    failure(3, FailureKind.OTHER, "ValueError: b", 3.0),
                    failure(1, FailureKind.OTHER, "KeyError: a", 2.0),
                ],
            ),
            Cause.FAILED,
            "failed: rank 1 on n1: KeyError: a",
        ),
        (Outcome(1, AT, PEERS, hang_report="rank 1 …"), Cause.HANG, "hang: rank 1 …"),
        (
            Outcome(1, AT, PEERS, hang_report="x", dead_nodes=(("n2", "Slurm says down*"),)),
            Cause.DEAD_NODE,
            "dead node: n2 (Slurm says down*)",
        ),
        (Outcome(3, AT), Cause.FAILED, "failed with status 3; no rank reported why"),
    ],
)
def test_causes_are_told_apart(outcome: Outcome, cause: Cause, said: str) -> None:
    assert cause_of(outcome) == (cause, said)


@pytest.mark.parametrize("cause", [Cause.HANG, Cause.KILLED, Cause.FAILED])
def test_only_what_another_start_may_mend_is_started_again(cause: Cause) -> None:
    for restarts in range(RESTARTS_WITHOUT_CHECKPOINT):
        assert action_after(cause, restarts=restarts) is Action.RESTART
    assert action_after(cause, restarts=RESTARTS_WITHOUT_CHECKPOINT) is Action.END
    assert action_after(cause, restarts=0, asked_to_stop=True) is Action.REQUEUE
    assert action_after(cause, restarts=0, preempted=True) is Action.REQUEUE


@given(st.sampled_from(Cause), st.integers(0, 9), st.booleans(), st.booleans())
def test_errors_of_the_user_and_full_disks_always_end_the_job(
    cause: Cause, restarts: int, stop: bool, preempted: bool
) -> None:
    action = action_after(cause, restarts=restarts, asked_to_stop=stop, preempted=preempted)
    if cause in (Cause.DONE, Cause.USER_ERROR, Cause.NO_SPACE):
        assert action is Action.END
    if cause in (Cause.SAVED, Cause.DEAD_NODE):
        assert action is Action.REQUEUE


@given(st.integers(1, 255), st.lists(st.sampled_from(FailureKind), max_size=4), st.booleans())
def test_every_status_has_a_cause(status: int, kinds: list[FailureKind], stop: bool) -> None:
    reported = [failure(rank, kind) for rank, kind in enumerate(kinds)]
    cause, said = cause_of(Outcome(status, AT, reported, asked_to_stop=stop))
    assert said.startswith(cause) or cause is Cause.SAVED
    killed = {128 + number for number in signal.Signals}
    if status not in {0, 2, 75} | killed and not kinds:
        assert cause in (Cause.FAILED, Cause.KILLED)
