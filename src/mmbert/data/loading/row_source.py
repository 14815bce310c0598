"""Construction of rows from some streams of a phase, and the row numbers of a data rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmbert.data.loading.data_state import DataCursor
from mmbert.data.loading.masking import Masker
from mmbert.data.loading.packing import row_shape
from mmbert.data.loading.rows import Row, RowBuilder
from mmbert.data.loading.streams import Stream
from mmbert.recipe import Recipe
from mmbert.schedule import PhasePlan, TrainingPlan


class RowSource:
    """Builds rows of `streams` in the cursor's current phase."""

    def __init__(
        self, cursor: DataCursor, recipe: Recipe, masker: Masker, streams: Sequence[int]
    ) -> None:
        sampler, phase = cursor.sampler, recipe.phases[cursor.sampler.index]
        self._streams = {
            number: Stream(sampler, number, cursor.streams[number], read_ahead=True)
            for number in streams
        }
        self._builder = RowBuilder(
            cursor.locator.corpus,
            masker,
            row_shape(sampler),
            mask_ratio=phase.predicted,
            context=phase.context,
            causal=phase.causal,
        )
        self._count = sampler.streams

    def row(self, index: int) -> Row:
        """Build row `index` of the run; rows of a stream must be requested in order."""
        stream = self._streams[index % self._count]
        table = stream.next_row()
        return self._builder.build(index, table, stream.state_dict())


def rows_of_rank(
    plan: TrainingPlan, phase: PhasePlan, first_step: int, rank: int, ranks: int
) -> Iterator[tuple[int, range]]:
    """Yield (step, rows of data rank `rank`) for the steps of a phase from `first_step` on."""
    for step in range(max(phase.first_step, first_step), phase.end_step):
        at = plan.at(step)
        first = at.first_row + (rank - at.first_row) % ranks
        yield step, range(first, at.first_row + at.rows, ranks)
