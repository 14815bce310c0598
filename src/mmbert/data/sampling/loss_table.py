"""Loss sums and token counts by component, with the means over tiers and languages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmbert.data.sampling.component_table import ComponentTable


@dataclass(frozen=True, eq=False)
class LossTable:
    """Summed loss and number of tokens of every component of a corpus, in its order."""

    loss: npt.NDArray[np.float64]
    """float64 [components], in nats."""
    count: npt.NDArray[np.float64]
    """float64 [components], in tokens."""

    @classmethod
    def zeros(cls, components: int) -> "LossTable":
        """Return a table without tokens."""
        return cls(np.zeros(components), np.zeros(components))

    def __add__(self, other: "LossTable") -> "LossTable":
        return LossTable(self.loss + other.loss, self.count + other.count)

    def mean(self, components: npt.NDArray[np.int64] | None = None) -> float | None:
        """Return the mean loss per token over `components` (default: all); None without tokens."""
        chosen = slice(None) if components is None else components
        count = float(self.count[chosen].sum())
        return float(self.loss[chosen].sum()) / count if count else None

    def by_label(
        self, labels: Sequence[str], order: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Return the mean loss of each label's components, omitting labels without tokens.

        Args:
            labels: one per component.
            order: the labels to return, in this order (default: all, sorted).
        """
        of_component = np.asarray(labels)
        names = sorted(set(labels)) if order is None else order
        means = {name: self.mean(np.flatnonzero(of_component == name)) for name in names}
        return {name: mean for name, mean in means.items() if mean is not None}

    def by_tier(self, table: ComponentTable) -> dict[str, float]:
        """Return the mean loss of each tier with tokens, in the order of the phases."""
        return self.by_label(table.tiers, [phase.name for phase in table.plan.phases])

    def by_language(self, table: ComponentTable) -> dict[str, float]:
        """Return the mean loss of each language with tokens, over all its sources."""
        return self.by_label(table.languages)
