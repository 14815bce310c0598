"""Nodes that disagree, machines listed twice, tensor groups across nodes: refused by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.errors import LauncherError
from mmbert.training.launch.placement import check_devices, check_machines, check_tensor_groups
from mmbert.training.launch.rank_facts import RankFacts
from mmbert.training.launch.variables import check_variables, collected


def ranks_on(*hosts: str, **common: Any) -> list[RankFacts]:
    """Return the facts of one rank on each of `hosts`, in this order."""
    fields: dict[str, Any] = {"device": "cpu", "variables": {}, "placed_by_launcher": True}
    return [
        RankFacts(
            **{
                **fields,
                "rank": rank,
                "local_rank": hosts[:rank].count(host),
                "host": host,
                "machine": host,
                **common,
            }
        )
        for rank, host in enumerate(hosts)
    ]


def with_variables(rank: RankFacts, **variables: str) -> RankFacts:
    return rank.model_copy(update={"variables": variables})


@pytest.mark.parametrize("name", ["MMBERT_ATTENTION", "MMBERT_KERNELS", "OMP_NUM_THREADS"])
def test_a_variable_that_differs_between_nodes_is_named_with_the_line_to_write(name: str) -> None:
    first, second, third = ranks_on("n1", "n2", "n3")
    ranks = [with_variables(first, **{name: "sdpa"}), second, third]
    with pytest.raises(LauncherError) as refused:
        check_variables(ranks)
    assert refused.value.message == (
        f"{name} differs between nodes: 'sdpa' on n1; not set on n2, n3"
    )
    assert f"line {name}=sdpa to the file .deepspeed_env" in refused.value.remedy
    assert f"mpirun: -x {name}=sdpa" in refused.value.remedy
    check_variables([with_variables(rank, **{name: "sdpa"}) for rank in ranks])


def test_variables_count_where_they_matter() -> None:
    """Threads change results on CPUs; the accelerator's and NCCL's variables matter on GPUs."""
    for device, matters, does_not in (
        ("cpu", "OMP_NUM_THREADS", "NCCL_ALGO"),
        ("cuda", "NCCL_ALGO", "OMP_NUM_THREADS"),
        ("cuda", "DS_ACCELERATOR", "ATEN_CPU_CAPABILITY"),
    ):
        first, second = ranks_on("n1", "n2", device=device)
        check_variables([with_variables(first, **{does_not: "1"}), second])
        with pytest.raises(LauncherError, match=matters):
            check_variables([with_variables(first, **{matters: "1"}), second])


def test_a_blank_variable_is_not_set() -> None:
    assert collected({"MMBERT_KERNELS": " ", "OMP_NUM_THREADS": "2", "HOME": "/root"}) == {
        "OMP_NUM_THREADS": "2"
    }


@pytest.mark.parametrize("name", ["MMBERT_KERNELS", "GLOO_SOCKET_IFNAME"])
def test_a_variable_that_deepspeed_did_not_hand_over_is_named(name: str) -> None:
    """All nodes agree that it is not set, but the user has set it."""
    ranks = ranks_on("n1", "n2", shell_variables={name: "eth1"})
    with pytest.raises(LauncherError) as refused:
        check_variables(ranks)
    assert f"{name} is 'eth1' where `deepspeed` was started, but not set in rank 0 on n1" in str(
        refused.value
    )
    check_variables([with_variables(rank, **{name: "eth1"}) for rank in ranks])


def test_an_interface_may_have_another_name_on_another_node() -> None:
    first, second = ranks_on("n1", "n2")
    check_variables(
        [
            with_variables(first, GLOO_SOCKET_IFNAME="eth0"),
            with_variables(second, GLOO_SOCKET_IFNAME="ib0"),
        ]
    )


def test_a_machine_that_is_listed_twice_is_named() -> None:
    twice = [rank.model_copy(update={"local_rank": 0}) for rank in ranks_on("n1", "n1")]
    with pytest.raises(LauncherError, match="ranks 0 and 1 are both local rank 0 of machine n1"):
        check_machines(twice)
    check_machines(ranks_on("n1", "n1", "n2", "n2"))
    # Launchers that were started by hand, one for each "node".
    check_machines([rank.model_copy(update={"placed_by_launcher": False}) for rank in twice])
    # On GPUs there is no such purpose, unless they are shown different ones.
    on_gpu = [rank.model_copy(update={"device": "cuda"}) for rank in twice]
    with pytest.raises(LauncherError, match="machine n1"):
        check_machines(on_gpu)
    check_machines([rank.model_copy(update={"visible_devices": str(rank.rank)}) for rank in on_gpu])


def test_a_node_without_its_gpus_is_named() -> None:
    first, second = ranks_on("n1", "n2")
    with pytest.raises(LauncherError, match="1 of 2 ranks see no GPU, on n2"):
        check_devices([first.model_copy(update={"device": "cuda"}), second])
    check_devices([first, second])


def test_unlike_slots_that_tensor_groups_do_not_fit_are_named() -> None:
    with pytest.raises(LauncherError) as refused:
        check_tensor_groups(ranks_on("n1", "n1", "n1", "n2"), 2)
    assert "parallel.tensor is 2, but the nodes have n1: 3, n2: 1 ranks" in str(refused.value)
    assert "a multiple of parallel.tensor: 2, 4, 8" in str(refused.value)


@given(slots=st.lists(st.integers(1, 6), min_size=1, max_size=5), tensor=st.integers(1, 6))
def test_tensor_groups_that_are_accepted_lie_alike_on_the_nodes(
    slots: list[int], tensor: int
) -> None:
    hosts = [f"n{node}" for node, count in enumerate(slots) for _ in range(count)]
    if len(hosts) % tensor:
        return  # another check refuses it
    groups = [hosts[start : start + tensor] for start in range(0, len(hosts), tensor)]
    shapes = {tuple(group.count(host) for host in dict.fromkeys(group)) for group in groups}
    inside = shapes == {(tensor,)}
    whole_nodes = shapes == {(slots[0],) * (tensor // slots[0])} if slots[0] <= tensor else False
    try:
        check_tensor_groups(ranks_on(*hosts), tensor)
    except LauncherError:
        assert not inside
    else:
        assert inside or whole_nodes
