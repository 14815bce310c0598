"""The allocation in Slurm's variables, and the states of nodes."""

import pytest

from mmbert.cluster.restart.slurm_job import allocation_from_env, is_unusable
from mmbert.errors import LauncherError

HOSTS = ("n1", "n2")


@pytest.mark.parametrize(
    ("variables", "tasks", "gpus", "cpus"),
    [
        ({"SLURM_GPUS_PER_NODE": "h100:8", "SLURM_GPUS_ON_NODE": "8"}, 8, 8, 2),
        ({"SLURM_GPUS_ON_NODE": "4"}, 4, 4, 4),
        ({"SLURM_NTASKS_PER_NODE": "2"}, 2, 0, 8),
        # Of a job that came back with fewer nodes.
        ({"SLURM_NTASKS_PER_NODE": "2", "SLURM_NTASKS": "8"}, 2, 0, 8),
        ({}, 1, 0, 16),
    ],
)
def test_one_task_per_gpu_or_as_many_as_requested(
    variables: dict[str, str], tasks: int, gpus: int, cpus: int
) -> None:
    found = allocation_from_env({"SLURM_CPUS_ON_NODE": "16", **variables}, HOSTS)
    assert (found.tasks_per_node, found.gpus_per_node, found.cpus_per_task) == (tasks, gpus, cpus)
    assert found.tasks == 2 * tasks


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_GPUS_ON_NODE": "2", "SLURM_NTASKS_PER_NODE": "1"}, r"1 task\(s\) but 2 GPU"),
        ({"SLURM_GPUS_ON_NODE": "2", "SLURM_NTASKS": "3"}, r"3 tasks requested, but 2 node"),
        ({"SLURM_NTASKS_PER_NODE": "17"}, r"16 CPU\(s\) on a node for 17 tasks"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(LauncherError, match=message):
        allocation_from_env({"SLURM_CPUS_ON_NODE": "16", **variables}, HOSTS)


def test_nodes_that_are_down_silent_or_drained_are_of_no_use() -> None:
    for state in ("down", "down*", "allocated*", "idle*", "drained", "draining", "fail", "DOWN$"):
        assert is_unusable(state), state
    for state in ("idle", "allocated", "mixed", "completing", "reserved", "planned", "idle~"):
        assert not is_unusable(state), state
