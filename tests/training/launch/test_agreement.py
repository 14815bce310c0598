"""The same verdict on all ranks, and ranks that do not come."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch.distributed as distributed

from mmbert.errors import LauncherError
from mmbert.training.launch.agreement import agree
from mmbert.training.launch.rank_facts import RankFacts
from tests.training.launch.test_checks import ranks_on, with_variables


def verdicts(
    ranks: list[RankFacts], world_size: int, tensor_parallel: int = 1, seconds: float = 60
) -> list[LauncherError | None]:
    """Return the verdicts of ranks that run as threads."""
    store, limit = distributed.HashStore(), timedelta(seconds=seconds)
    with ThreadPoolExecutor(len(ranks)) as pool:
        found = [
            pool.submit(
                agree, rank, store, world_size, tensor_parallel=tensor_parallel, timeout=limit
            )
            for rank in ranks
        ]
        return [future.result() for future in found]


def test_ranks_that_agree() -> None:
    assert verdicts(ranks_on("n1", "n1", "n2", "n2"), 4, tensor_parallel=2) == [None] * 4


def test_all_ranks_learn_what_is_wrong() -> None:
    first, second, third = ranks_on("n1", "n2", "n3")
    found = verdicts([first, second, with_variables(third, MMBERT_KERNELS="triton")], 3)
    assert len({str(verdict) for verdict in found}) == 1
    assert "MMBERT_KERNELS differs between nodes: not set on n1, n2; 'triton' on n3" in str(
        found[0]
    )


def test_tensor_groups_are_judged_by_the_recipe() -> None:
    (verdict, *_) = verdicts(ranks_on("n1", "n1", "n1", "n2"), 4, tensor_parallel=2)
    assert "some tensor groups would straddle two nodes" in str(verdict)


def test_ranks_that_do_not_come_are_named_with_the_hosts_that_did() -> None:
    (verdict,) = verdicts(ranks_on("n1"), 3, seconds=0.2)
    assert "2 of 3 ranks did not come within" in str(verdict)
    assert "minutes: 1, 2; those on n1 did" in str(verdict)
