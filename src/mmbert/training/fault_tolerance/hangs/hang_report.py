"""Text about the ranks that block the others, from their last heartbeats."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbert.training.fault_tolerance.hangs.watchdog import Heartbeat

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
    network = _describe_network(heartbeats) if len(stragglers) == world_size else ""
    if network:
        first = heartbeats[0]
        return (
            f"all ranks wait for each other in step {first.step}, {first.activity}: {network}; the "
            f"stack of rank 0:\n{stacks[0]}"
        )
    return "\n".join(_describe_straggler(heartbeats[rank], stacks[rank]) for rank in stragglers)


def _describe_network(heartbeats: "dict[int, Heartbeat]") -> str:
    """Describe what the network has to do with ranks that all wait; empty if nothing is known."""
    first = heartbeats[0]
    slow = [
        heartbeat
        for heartbeat in heartbeats.values()
        if heartbeat.host != first.host and heartbeat.store_seconds > _SLOW_SECONDS
    ]
    if slow:
        links = "; ".join(
            f"a question from rank {h.rank} (host {h.host}) to rank 0 (host {first.host}) took "
            f"{h.store_seconds:.1f} s"
            for h in sorted(slow, key=lambda h: -h.store_seconds)[:8]
        )
        return f"the network is slow or loses packets: {links}"
    hosts = list(dict.fromkeys(h.host for h in heartbeats.values()))
    if len(hosts) < 3:  # all links are those to rank 0's host
        return ""
    return (
        f"every host reaches rank 0's host {first.host}, but a link between two of the others may "
        f"be cut: {', '.join(hosts[1:9])}{', …' if len(hosts) > 9 else ''}"
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
