"""Nodes that the next start of a job is to do without, and their exclusion."""

from collections.abc import Callable, Sequence

from mmbert.cluster.restart.slurm_job import SlurmJob
from mmbert.journals.run_journal import NodeProblem, NodeReport


def nodes_to_leave_out(
    reports: Sequence[NodeReport], dead: Sequence[str], *, slow: bool = False
) -> list[str]:
    """Return the hosts that the next start is to do without.

    Args:
        reports: reports of the run. A dead node counts only in the start in which it died: Slurm
            keeps it from jobs, and gives it out again once it is repaired.
        dead: hosts that were lost in this start.
        slow: whether slow nodes are left out.
    """
    suspected = [
        report.host
        for report in reports
        if (report.exclude and report.problem is NodeProblem.WRONG)
        or (slow and report.problem is NodeProblem.SLOW)
    ]
    return list(dict.fromkeys([*dead, *suspected]))


def leave_out(job: SlurmJob, nodes: int, hosts: Sequence[str], say: Callable[[str], None]) -> None:
    """Exclude `hosts` from the next start of a requeued job.

    If the partition then has fewer usable nodes than the job had, the job takes all of them instead
    of waiting for ever.

    Args:
        nodes: nodes that the job had.
    """
    names = ", ".join(hosts)
    usable = job.usable_without(hosts)
    if usable == 0:
        say(f"not excluding {names}: the partition has no other usable node")
        return
    if not job.update(ExcNodeList=",".join(dict.fromkeys([*job.excluded(), *hosts]))):
        say(f"Slurm did not exclude {names} from the next start")
        return
    say(f"the next start leaves out {names}")
    if usable is not None and usable < nodes and job.update(NumNodes=f"{usable}-{nodes}"):
        say(f"the partition has {usable} usable node(s) besides: the next start takes those")
