"""Identity of the text under a run: digests of the manifests' checksums, compared on resuming.

Nothing of the text is read: manifests hold a checksum of every file. A digest covers what a run
uses of a component (documents in their order, and the pieces that they are cut into), so that a
moved folder, equal files made again and indexes of other contexts change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypedDict

import xxhash

from mmbert.data.shards.corpus import Component, Corpus
from mmbert.errors import ResumeError

_SHOWN = 8
REMEDY = (
    "put back the shards that the run was started with, or start a new run in another --output; "
    "languages that no phase has used yet may change"
)


class DataIdentity(TypedDict):
    """Digests of all components of a corpus, in their order; 16 hexadecimal digits each."""

    checksums: list[str]
    """Of the shards' checksums."""
    indexes: list[str]
    """Of the checksum of the piece index at the run's longest context; empty without one."""


def data_identity(corpus: Corpus, longest_context: int) -> DataIdentity:
    """Compute the digests of a corpus from its manifests."""
    return {
        "checksums": [_digest_of_shards(component) for component in corpus.components],
        "indexes": [
            _digest_of_index(component, longest_context) for component in corpus.components
        ],
    }


def _digest_of_shards(component: Component) -> str:
    manifest = component.manifest
    parts: list[object] = [manifest.dtype]
    # Held-out shards too: losses before and after must be of the same text.
    for name, split in (("train", manifest.train), ("heldout", manifest.heldout)):
        parts.append(name)
        for shard in split.shards:
            files = shard.files
            parts += [shard.documents, shard.tokens, files.bin.xxh3_128, files.idx.xxh3_128]
    return _digest(*parts)


def _digest_of_index(component: Component, context: int) -> str:
    entry = component.manifest.train.pieces.get(context)
    return "" if entry is None else _digest(entry.continuations, entry.xxh3_128)


def _digest(*parts: object) -> str:
    return xxhash.xxh3_64_hexdigest("/".join(str(part) for part in parts).encode())


def check_unchanged(
    names: Sequence[str],
    before: Sequence[str],
    corpus: Corpus,
    now: Sequence[str],
    used: Collection[int],
    what: str,
) -> None:
    """Compare the digests of the components that a run has used.

    Args:
        names: components of the checkpoint; `before` are their digests.
        now: digests of the components of `corpus`.
        used: indices in `corpus` of those that a phase has begun to draw from.
        what: `shards` or `piece indexes`, for the message.

    Raises:
        ResumeError: names the components that differ.
    """
    changed = []
    for name, digest in zip(names, before, strict=True):
        component = corpus.named(name)
        if component is not None and component.index in used and now[component.index] != digest:
            changed.append(name)
    if changed:
        raise ResumeError(
            f"the {what} of {_counted(changed)} in {corpus.root} are not those that the run was "
            "trained on: rebuilt, put in another order or exchanged since the checkpoint",
            remedy=REMEDY,
        )


def describe_other_components(names: Sequence[str], corpus: Corpus, used: Collection[int]) -> str:
    """Return the components that a corpus lost, and those of `used` that it gained, or ""."""
    lost = [name for name in names if corpus.named(name) is None]
    gained = [corpus.components[index].name for index in sorted(used)]
    gained = [name for name in gained if name not in set(names)]
    parts = [
        f"{_counted(found)} {verb}"
        for found, verb in ((lost, "missing"), (gained, "added since"))
        if found
    ]
    return "; ".join(parts)


def _counted(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"
