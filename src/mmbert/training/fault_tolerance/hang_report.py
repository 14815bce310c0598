"""Text about the ranks that block the others, from their last heartbeats."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbert.training.fault_tolerance.watchdog import Heartbeat

# A question to rank 0's host that took so many seconds points at the network.
_SLOW_SECONDS = 0.5


def report_stragglers(
    heartbeats: "dict[int, Heartbeat]",
    responsive: list[int],
    stacks: dict[int, str],
    world_size: int,
) -> str:
    """Describe the ranks that block the others, with their stacks.

    These are the unresponsive ranks or, if all respond, the ranks with the least progress
    (activities are the same on all ranks), preferably those that do not wait in a collective.
    """
    unresponsive = [rank for rank in range(world_size) if rank not in responsive]
    if unresponsive:
        return "\n".join(
            _describe_unresponsive(rank, heartbeats.get(rank)) for rank in unresponsive
        )
    min_progress = min(heartbeats[rank].progress for rank in responsive)
    behind = [rank for rank in responsive if heartbeats[rank].progress == min_progress]
    stragglers = [rank for rank in behind if not heartbeats[rank].in_collective] or behind
    if len(stragglers) == world_size > 1:
        return _describe_all_waiting(heartbeats, stacks[0])
    return "\n".join(_describe_straggler(heartbeats[rank], stacks[rank]) for rank in stragglers)


def _describe_all_waiting(heartbeats: "dict[int, Heartbeat]", stack: str) -> str:
    """Describe ranks that all wait for each other, as for messages that the network loses."""
    first, slow = heartbeats[0], [h for h in heartbeats.values() if h.store_seconds > _SLOW_SECONDS]
    links = "; ".join(
        f"between rank {h.rank} (host {h.host}) and rank 0 (host {first.host}) a question took "
        f"{h.store_seconds:.1f} s"
        for h in sorted(slow, key=lambda h: -h.store_seconds)[:8]
    )
    hosts = ", ".join(dict.fromkeys(h.host for h in heartbeats.values()))
    where = links or f"no link to rank 0's host is slow; another one between {hosts} may be"
    return (
        f"all ranks wait for each other in step {first.step}, {first.activity}: the network is cut "
        f"or loses packets: {where}; the stack of rank 0:\n{stack}"
    )


def _describe_straggler(heartbeat: "Heartbeat", stack: str) -> str:
    return (
        f"rank {heartbeat.rank} (host {heartbeat.host}, process {heartbeat.process}) hangs in step "
        f"{heartbeat.step}, {heartbeat.activity}; its stack:\n{stack}"
    )


def _describe_unresponsive(rank: int, heartbeat: "Heartbeat | None") -> str:
    if heartbeat is None:
        return f"rank {rank} has never reported"
    return (
        f"rank {rank} (host {heartbeat.host}, process {heartbeat.process}) is unresponsive: "
        "suspended, node lost or cut off, or blocked while holding the GIL (then its stack is in "
        f"stacks/rank-{rank}.txt); last seen in step {heartbeat.step}, {heartbeat.activity}"
    )


def describe_own(step: int, activity: str, idle: float, stack: str) -> str:
    """Describe a hang of the only process."""
    return f"the process hangs in step {step}, {activity}, for {idle:.0f} s; its stack:\n{stack}"
