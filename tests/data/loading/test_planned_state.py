"""Data state of a run that starts within the plan, without having drawn any data."""

import numpy as np
import pytest

from mmbert.data.loading.data_state import DataCursor, planned_state
from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.streams import Stream
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.recipe import Recipe, load_recipe
from mmbert.schedule import training_plan
from tests.support.small_run import write_inputs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Recipe]:
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    return open_corpus(folder / "shards"), load_recipe(folder / "recipe.yaml")


def trained_by_a_real_run(corpus: Corpus, recipe: Recipe, step: int) -> float:
    """Mean pieces of a stream before `step` in its phase, without those in its buffer."""
    plan = training_plan(recipe)
    cursor = DataCursor(corpus, recipe, plan, None)
    for phase in plan.phases:
        streams = [Stream(cursor.sampler, n, cursor.streams[n]) for n in range(4)]
        for earlier in range(phase.first_step, min(step, phase.end_step)):
            at = plan.at(earlier)
            for row in range(at.first_row, at.first_row + at.rows):
                streams[row % 4].next_row()
        if step < phase.end_step:
            states = [stream.state_dict() for stream in streams]
            waiting = [len({tuple(entry[:2]) for entry in s["carried"]}) for s in states]
            return float(np.mean([s["position"] for s in states]) - np.mean(waiting))
        cursor.advance([stream.state_dict() for stream in streams])
    raise AssertionError(step)


@pytest.mark.parametrize("step", [0, 5, 10, 14, 16, 21])
def test_streams_are_where_the_plan_expects_them(run: tuple[Corpus, Recipe], step: int) -> None:
    corpus, recipe = run
    plan = training_plan(recipe)
    state = planned_state(corpus, recipe, plan, step)
    found = [state["streams"][str(number)]["position"] for number in range(4)]
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(trained_by_a_real_run(corpus, recipe, step), abs=3)
    assert (found[0] == 0) == (step in {phase.first_step for phase in plan.phases})


@pytest.mark.parametrize("step", [5, 14])
def test_rows_are_read_from_there_to_the_end(run: tuple[Corpus, Recipe], step: int) -> None:
    corpus, recipe = run
    plan = training_plan(recipe)
    state = planned_state(corpus, recipe, plan, step)
    loader = RowLoader(corpus, recipe, plan, state=state, first_step=step)
    rows = [row.index for row in loader]
    assert rows == list(range(4 * step, 4 * plan.steps))


def test_earlier_phases_count_as_drawn(run: tuple[Corpus, Recipe]) -> None:
    """So that epochs go on as planned, and caps hold over the whole run."""
    corpus, recipe = run
    plan = training_plan(recipe)
    cursor = DataCursor(corpus, recipe, plan, planned_state(corpus, recipe, plan, 16))
    drawn = cursor.sampler.consumption.drawn()
    real = DataCursor(corpus, recipe, plan, None)
    for phase in plan.phases[:2]:
        streams = [Stream(real.sampler, n, real.streams[n]) for n in range(4)]
        for row in range(phase.first_row, phase.first_row + phase.rows):
            streams[row % 4].next_row()
        real.advance([stream.state_dict() for stream in streams])
    wanted = real.sampler.consumption.drawn()
    assert drawn.sum() > 0
    np.testing.assert_allclose(drawn, wanted, atol=0.35 * wanted.max())
