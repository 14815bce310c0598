"""Component: one language of one source, opened through its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from mmbert.data.shards.manifest import MANIFEST_NAME, Manifest, Shard, Split
from mmbert.errors import ShardsError

SplitName = Literal["train", "heldout"]


@dataclass(frozen=True)
class Component:
    """One language of one source, the unit sampled by the mixture."""

    index: int
    """Position in `Corpus.components`."""
    source: str
    """Name of the source's folder within the shards."""
    language: str
    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """`source/language`, the component's stable name (indices change when data is added)."""
        return f"{self.source}/{self.language}"

    def split(self, name: SplitName) -> Split:
        """Return the manifest's entry of a split."""
        return self.manifest.train if name == "train" else self.manifest.heldout

    def starts(self, name: SplitName) -> np.ndarray:
        """Return the first document number of each shard, then their total, int64 [shards + 1]."""
        return self.train_starts if name == "train" else self.heldout_starts

    @cached_property
    def train_starts(self) -> np.ndarray:
        """`starts` of the train split."""
        return _starts(self.manifest.train.shards)

    @cached_property
    def heldout_starts(self) -> np.ndarray:
        """`starts` of the held-out split."""
        return _starts(self.manifest.heldout.shards)

    def continuations(self, context: int) -> int:
        """Return the number of continuation pieces. Raises UserError if there is no index."""
        entry = self.manifest.train.pieces.get(context)
        if entry is None:
            known = ", ".join(str(c) for c in sorted(self.manifest.train.pieces)) or "none"
            raise ShardsError(
                f"{self.folder / MANIFEST_NAME} has no piece index for context {context} "
                f"(it has: {known})",
                remedy="run the preprocessing again with this recipe and --replace (make "
                "preprocess … RECIPE=… ARGS=--replace): it remakes the source",
            )
        return entry.continuations


def _starts(shards: tuple[Shard, ...]) -> np.ndarray:
    counts = np.array([shard.documents for shard in shards], dtype=np.int64)
    return np.concatenate(([0], np.cumsum(counts)))
