"""Copies of the shards on the nodes' own disks, for `data.copy_to`."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmbert.data.node_copy.copier import Copier, Steps
from mmbert.data.node_copy.copy_plan import (
    CopyPlan,
    corpus_at,
    expand_folder,
    make_copy_folder,
    other_copies,
    plan_copy,
)
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import OutputError, UserError
from mmbert.parallel.host_group import HostGroup
from mmbert.recipe import Recipe
from mmbert.training.nodes.node_map import NodeMap, listed

SLICE_SECONDS = 5.0
"""Time between two reports of the ranks, far below the timeout of their collectives."""
_LOG_SECONDS = 30.0


@dataclass(frozen=True)
class LocalShards:
    """The corpus with its files on this node's disk, and what was done for it on all nodes."""

    corpus: Corpus
    text: str
    details: dict[str, Any]


@dataclass(frozen=True)
class _State:
    """Progress of a rank."""

    bytes: int
    finished: bool
    error: UserError | None
    counts: tuple[int, int, int, int]
    """Files copied, their bytes, files found, files found damaged."""


def copy_shards(
    corpus: Corpus,
    recipe: Recipe,
    nodes: NodeMap,
    host_group: HostGroup,
    alive: Callable[[], None],
) -> LocalShards | None:
    """Copy the recipe's sources to every node's disk, if it has `data.copy_to`. Collective.

    The ranks of a node divide the files among them. They report to each other every
    `SLICE_SECONDS`, so that an error ends all of them, and none waits for long.

    Args:
        alive: called often, for the watchdog.

    Raises:
        UserError: on all ranks.
    """
    copy_to = recipe.data.copy_to
    if copy_to is None:
        return None
    sources = {source.folder for source in recipe.data.sources}
    plan = plan_copy(corpus, sources, recipe.longest_context)
    folder = _make_folder(copy_to, plan, nodes, host_group)
    own = nodes.own
    copier = Copier(plan.origin, folder, plan.files[own.rank :: own.world_size])
    states = _copy(copier, plan.bytes * len(nodes.names), host_group, alive)
    host_group.raise_on_all_ranks(lambda: _check_shared(folder, plan, nodes))
    copied, copied_bytes, found, damaged = (
        sum(state.counts[place] for state in states) for place in range(4)
    )
    folders = host_group.gather(
        (str(folder), other_copies(folder)) if nodes.is_first_rank else None
    )
    places = dict(zip(nodes.names, (place for place in folders if place), strict=True))
    text = (
        f"training reads copies of the shards on {len(nodes.names)} "
        f"node{'' if len(nodes.names) == 1 else 's'} "
        f"({listed([f'{node}: {path}' for node, (path, _) in places.items()])}): "
        f"{copied:,} files with {tqdm.format_sizeof(copied_bytes, 'B')} copied, "
        f"{found:,} were there"
        f"{f', {damaged:,} of the copied ones had been damaged' if damaged else ''}"
    )
    old = [f"{node}: {', '.join(others)}" for node, (_, others) in places.items() if others]
    if old:
        text += f"; copies of other shards stay beside them ({listed(old)}): remove them if unused"
    details = {
        "folders": {node: path for node, (path, _) in places.items()},
        "original": str(corpus.root),
        "files_copied": copied,
        "bytes_copied": copied_bytes,
        "files_found": found,
        "files_damaged": damaged,
    }
    return LocalShards(corpus_at(corpus, plan, folder), text, details)


def _make_folder(copy_to: str, plan: CopyPlan, nodes: NodeMap, host_group: HostGroup) -> Path:
    """Create the folder on each node, by its first rank; return this node's."""
    folder: Path | None = None

    def make() -> None:
        nonlocal folder
        parent = expand_folder(copy_to, os.environ, nodes.name)
        folder = make_copy_folder(parent, plan, nodes.name)

    host_group.raise_on_all_ranks(make if nodes.is_first_rank else None)
    found: Path = nodes.own.broadcast(folder)
    return found


def _copy(
    copier: Copier, total: int, host_group: HostGroup, alive: Callable[[], None]
) -> list[_State]:
    """Copy on all ranks until they have finished; return their last states."""
    steps = copier.run()
    shown = sys.stderr.isatty()
    with tqdm(
        desc="copying shards to the nodes",
        total=total,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        mininterval=0.5 if shown else _LOG_SECONDS,
        disable=not host_group.is_rank_zero,
        leave=False,
        delay=1.0,
    ) as bar:
        while True:
            state = _copy_for_a_while(copier, steps, alive)
            states: list[_State] = host_group.gather(state)
            error = next((state.error for state in states if state.error is not None), None)
            if error is not None:
                steps.close()  # removes a file that is not finished
                raise error
            bar.update(sum(state.bytes for state in states) - bar.n)
            if all(state.finished for state in states):
                return states


def _copy_for_a_while(copier: Copier, steps: Steps[None], alive: Callable[[], None]) -> _State:
    finished, error = True, None
    end = time.monotonic() + SLICE_SECONDS
    try:
        for _ in steps:
            alive()
            if time.monotonic() > end:
                finished = False
                break
    except UserError as problem:
        error = problem
    counts = (copier.copied, copier.copied_bytes, copier.found, copier.damaged)
    return _State(copier.done_bytes, finished, error, counts)


def _check_shared(folder: Path, plan: CopyPlan, nodes: NodeMap) -> None:
    """Check that this rank sees what the next one of its node has copied.

    Raises:
        OutputError: tasks of a node may have a temporary folder of their own each.
    """
    own = nodes.own
    share = plan.files[(own.rank + 1) % own.world_size :: own.world_size]
    if share and not (folder / share[0].path).is_file():
        raise OutputError(
            f"a rank on {nodes.name} does not see {folder / share[0].path}, which another rank of "
            "the same node has copied for data.copy_to",
            remedy="name a folder that all processes of a node share, not one of each task",
        )
