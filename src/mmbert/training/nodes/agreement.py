"""Comparison of all nodes before training: packages, recipe, shards, clocks.

The first rank of each node sends one small record to the first ranks of the others. Only where
digests differ are the values behind them sent, to name what differs. No file of tokens is read.
"""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xxhash

from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.data_identity import data_identity
from mmbert.errors import PackageError, RecipeError, ShardsError, UserError
from mmbert.parallel.host_group import HostGroup
from mmbert.recipe import Recipe
from mmbert.recipe.flat import flatten
from mmbert.training.nodes.node_map import NodeMap, listed

CLOCK_SECONDS = 60.0
"""Difference from the median clock, from which on a node is named.

No reason to stop: the order of a run's files, leases and checkpoints follows the times of the file
system and the steps, not the nodes' clocks. Only where clients give files their times (Lustre), and
in logs, do they matter.
"""
_SHOWN_KEYS = 5
_SHOWN_VALUES = 3
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Subject:
    """Something that must be the same on all nodes, and the error if it is not."""

    error: type[UserError]
    remedy: str


SUBJECTS: Mapping[str, Subject] = {
    "packages": Subject(
        PackageError,
        "install the same versions on all nodes: start from one environment on a shared file "
        "system or one container image, then run the same command again",
    ),
    "recipe": Subject(
        RecipeError,
        "start all nodes with the same recipe file and overrides; a file on a shared file system "
        "may take a minute to reach all of them",
    ),
    "shards": Subject(
        ShardsError,
        "give all nodes the same --data: copy the shards again to the nodes that differ, or keep "
        "one copy on a shared file system (data.copy_to copies from there to local disks)",
    ),
}
"""In the order in which they are reported: what comes later may follow from what comes before."""

Facts = Mapping[str, Mapping[str, str]]
"""Value by key, for every subject that this node knows."""


@dataclass(frozen=True)
class Agreement:
    """Outcome of the comparison, the same on all ranks."""

    error: UserError | None
    warnings: tuple[str, ...] = ()


def agree(facts: Facts, nodes: NodeMap, host_group: HostGroup) -> Agreement:
    """Compare the facts of all nodes. Collective.

    Args:
        facts: of this node; used on its first rank only. A subject that could not be read may be
            missing; then the node has an error of its own.
    """
    if len(nodes.names) == 1:
        return Agreement(None)
    outcome: Agreement = host_group.broadcast(
        _compare(facts, nodes) if nodes.is_first_rank else None
    )
    return outcome


def node_facts(
    versions: Mapping[str, str], recipe: Recipe | None, corpus: Corpus | None
) -> dict[str, Mapping[str, str]]:
    """Return what a node compares; without the recipe or corpus that it could not read."""
    facts = {"packages": versions}
    if recipe is not None:
        facts["recipe"] = _recipe_facts(recipe)
        if corpus is not None:
            facts["shards"] = _shard_facts(corpus, recipe.longest_context)
    return facts


def _recipe_facts(recipe: Recipe) -> dict[str, str]:
    # Where a node copies the shards to is its own affair.
    recipe = recipe.model_copy(update={"data": recipe.data.without_place()})
    leaves = flatten(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    return {key: json.dumps(value, ensure_ascii=False) for key, value in leaves.items()}


def _shard_facts(corpus: Corpus, context: int) -> dict[str, str]:
    identity = data_identity(corpus, context)
    facts = {"tokenizer": corpus.tokenizer.fingerprint[:16]}
    for component, shards, index in zip(
        corpus.components, identity["checksums"], identity["indexes"], strict=True
    ):
        facts[component.name] = f"{shards}/{index}" if index else shards
    return facts


def _compare(facts: Facts, nodes: NodeMap) -> Agreement:
    """Compare on the first ranks; each of them comes to the same outcome."""
    group = nodes.across
    group.barrier()  # so that the clocks are read at the same moment
    record = {"time": time.time(), **{name: _digest(facts.get(name)) for name in SUBJECTS}}
    records = group.gather(record)
    differing = [name for name in SUBJECTS if _differ([found.get(name) for found in records])]
    details = group.gather({name: dict(facts.get(name, {})) for name in differing} or None)
    error = None
    if differing:
        texts = [
            _describe(name, nodes.names, [found.get(name) or {} for found in details])
            for name in differing
        ]
        subject = SUBJECTS[differing[0]]
        error = subject.error(
            "the nodes differ; nothing was trained\n" + "\n".join(texts), remedy=subject.remedy
        )
    return Agreement(error, _clock_warnings(nodes.names, [found["time"] for found in records]))


def _digest(facts: Mapping[str, str] | None) -> str | None:
    return (
        None
        if facts is None
        else xxhash.xxh3_64_hexdigest(json.dumps(dict(facts), sort_keys=True).encode())
    )


def _differ(digests: Sequence[str | None]) -> bool:
    return len({digest for digest in digests if digest is not None}) > 1


def _describe(name: str, nodes: Sequence[str], details: Sequence[Mapping[str, str]]) -> str:
    """Describe the first keys that differ, with their values and the nodes that have them."""
    known = [(node, found) for node, found in zip(nodes, details, strict=True) if found]
    keys = dict.fromkeys(key for _, found in known for key in found)
    differing = [key for key in keys if len({found.get(key) for _, found in known}) > 1]
    lines = []
    for key in differing[:_SHOWN_KEYS]:
        by_value: dict[str | None, list[str]] = {}
        for node, found in known:
            by_value.setdefault(found.get(key), []).append(node)
        common = sorted(by_value.items(), key=lambda entry: -len(entry[1]))
        parts = [f"{_short(value)} on {listed(names)}" for value, names in common[:_SHOWN_VALUES]]
        more = len(common) - _SHOWN_VALUES
        parts += [f"{more:,} other values"] if more > 0 else []
        lines.append(f"  {name}: {key}: {'; '.join(parts)}")
    if len(differing) > _SHOWN_KEYS:
        lines.append(f"  {name}: {len(differing) - _SHOWN_KEYS:,} more that differ")
    return "\n".join(lines)


def _short(value: str | None) -> str:
    if value is None:
        return "missing"
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"


def _clock_warnings(nodes: Sequence[str], times: Sequence[float]) -> tuple[str, ...]:
    """Name the nodes whose clocks are far from the median."""
    middle = statistics.median_low(times)
    off = [
        f"{node} by {_minutes(moment - middle)}"
        for node, moment in zip(nodes, times, strict=True)
        if abs(moment - middle) > CLOCK_SECONDS
    ]
    if not off:
        return ()
    return (
        f"the nodes' clocks differ from the median: {listed(off)}; synchronize them (NTP, chrony): "
        "times in logs are wrong, and where clients of a file system give files their times "
        "(Lustre), so are leases of the run folder",
    )


def _minutes(seconds: float) -> str:
    return f"{'+' if seconds > 0 else '−'}{math.ceil(abs(seconds) / 6) / 10:g} min"
