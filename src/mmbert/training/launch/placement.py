"""Ranks on machines: one machine under two names, unlike devices, tensor groups across nodes."""

from collections import Counter
from collections.abc import Sequence

from mmbert.errors import LauncherError
from mmbert.training.launch.rank_facts import RankFacts


def check_machines(ranks: Sequence[RankFacts]) -> None:
    """Refuse two ranks in the same place of one machine, as from a hostfile that lists it twice.

    Raises:
        LauncherError: a machine is used twice.
    """
    places: dict[tuple[str, str, int, str | None], RankFacts] = {}
    for rank in ranks:
        if rank.device == "cpu" and not rank.placed_by_launcher:
            continue
        place = (rank.host, rank.machine, rank.local_rank, rank.visible_devices)
        other = places.setdefault(place, rank)
        if other is not rank:
            raise LauncherError(
                f"ranks {other.rank} and {rank.rank} are both local rank {rank.local_rank} of "
                f"machine {rank.host}: the launcher was given it twice, perhaps under two names",
                remedy="list every machine once in the hostfile, with all its slots",
            )


def check_devices(ranks: Sequence[RankFacts]) -> None:
    """Refuse a mixture of GPUs and CPUs, as when a node's driver has failed.

    Raises:
        LauncherError: the ranks have devices of several types.
    """
    counts = Counter(rank.device for rank in ranks)
    if len(counts) == 1:
        return
    hosts = list(dict.fromkeys(rank.host for rank in ranks if rank.device == "cpu"))
    raise LauncherError(
        f"{counts['cpu']} of {len(ranks)} ranks see no GPU, on {', '.join(hosts)}; the others do",
        remedy="leave that node out and look at it with `mmbert doctor`; DS_ACCELERATOR=cpu on all "
        "nodes trains without GPUs",
    )


def check_tensor_groups(ranks: Sequence[RankFacts], tensor_parallel: int) -> None:
    """Refuse tensor groups that straddle nodes because nodes have unlike numbers of ranks.

    Groups over several whole nodes are allowed, where every node has the same number of ranks.

    Raises:
        LauncherError: some tensor group has its ranks on more nodes than others have.
    """
    per_host = Counter(rank.host for rank in ranks)
    sizes = set(per_host.values())
    fits_inside = all(size % tensor_parallel == 0 for size in sizes)
    whole_nodes = len(sizes) == 1 and tensor_parallel % sizes.copy().pop() == 0
    if fits_inside or whole_nodes:
        return
    counts = ", ".join(f"{host}: {count}" for host, count in per_host.most_common(8))
    rest = "" if len(per_host) <= 8 else ", …"
    raise LauncherError(
        f"parallel.tensor is {tensor_parallel}, but the nodes have {counts}{rest} ranks: some "
        "tensor groups would straddle two nodes, and others not",
        remedy="give every node the same number of slots (tasks), a multiple of parallel.tensor: "
        + ", ".join(str(tensor_parallel * factor) for factor in (1, 2, 4)),
    )
