"""Naming the rank that hangs, from what the ranks said about themselves."""

from dataclasses import replace

from mmbert.training.watchdog import Beat, name_late_ranks

WAITING = Beat(
    rank=0,
    host="n1",
    process=10,
    count=7,
    progress=20,
    step=4,
    activity="forward, backward and optimiser step",
    waits_in_collective=True,
    idle_seconds=9.0,
)
STACKS = {rank: f"stack of rank {rank}" for rank in range(3)}


def beats(*changes: dict[str, object]) -> dict[int, Beat]:
    return {rank: replace(WAITING, rank=rank, **change) for rank, change in enumerate(changes)}  # type: ignore[arg-type]


def test_the_rank_that_is_furthest_behind_is_named_with_its_stack() -> None:
    told = beats({}, {"progress": 19, "activity": "reading rows", "host": "n2"}, {})
    message = name_late_ranks(told, [0, 1, 2], STACKS, 3)
    assert message.startswith("rank 1 (host n2, process 10) hangs in step 4, reading rows")
    assert "stack of rank 1" in message
    assert "rank 0" not in message


def test_among_equals_the_one_outside_a_collective_is_named() -> None:
    told = beats({}, {}, {"waits_in_collective": False})
    message = name_late_ranks(told, [0, 1, 2], STACKS, 3)
    assert message.startswith("rank 2 ")
    assert "rank 0" not in message


def test_a_silent_rank_is_named_before_any_other() -> None:
    told = beats({}, {"process": 55}, {"progress": 3})
    message = name_late_ranks(told, [0, 2], STACKS, 3)
    assert message.startswith("rank 1 (host n1, process 55) does not answer")


def test_a_rank_that_never_spoke_is_named() -> None:
    told = beats({}, {})
    assert name_late_ranks(told, [0, 1], STACKS, 3) == "rank 2 never answered"
