"""Documents of any step, found by replaying the data order without reading text."""

from __future__ import annotations

from dataclasses import dataclass

from mmbert.data.loading.data_state import DataCursor, DataState
from mmbert.data.loading.streams import Stream
from mmbert.data.sampling.phase_sampler import COMPONENT, DOCUMENT, NUMBER, SIZE, START
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import ArgumentError
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan


@dataclass(frozen=True)
class DocumentUse:
    """Tokens `start` to `start + tokens` of a document in row `row`, in the component's `epoch`."""

    row: int
    component: str
    document: int
    epoch: int
    start: int
    tokens: int


def documents_of_step(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, step: int, state: DataState | None = None
) -> list[DocumentUse]:
    """Return the documents of all rows of `step`, on all ranks, in order.

    Replays from the data state of an earlier checkpoint (of all streams), or from the beginning of
    the run, at microseconds per piece. Raises ArgumentError if the step is before the state or
    after the run.
    """
    cursor = DataCursor(corpus, recipe, plan, state)
    if not cursor.step <= step < plan.steps:
        raise ArgumentError(
            f"step {step} is outside {cursor.step} … {plan.steps - 1}",
            remedy="choose a step of the run, or an earlier checkpoint",
        )
    wanted = plan.at(step)
    current = cursor.step
    while True:
        phase = plan.phases[cursor.sampler.index]
        streams = [
            Stream(cursor.sampler, number, cursor.streams[number])
            for number in range(cursor.sampler.streams)
        ]
        for earlier in range(current, min(step, phase.end_step)):
            at = plan.at(earlier)
            for row in range(at.first_row, at.first_row + at.rows):
                streams[row % len(streams)].next_row()
        if step < phase.end_step:
            break
        cursor.advance([stream.state_dict() for stream in streams])
        current = phase.end_step
    uses = []
    for row in range(wanted.first_row, wanted.first_row + wanted.rows):
        table = streams[row % len(streams)].next_row()
        epochs = cursor.locator.epochs(table[:, COMPONENT], table[:, NUMBER]).tolist()
        for epoch, (component, document, start, size) in zip(
            epochs, table[:, (COMPONENT, DOCUMENT, START, SIZE)].tolist(), strict=True
        ):
            name = corpus.components[component].name
            uses.append(DocumentUse(row, name, document, epoch, start, size))
    return uses
