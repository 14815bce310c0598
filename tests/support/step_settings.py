"""Settings of a step, whatever the recipe."""

from dataclasses import replace
from typing import Any

from mmbert.schedule import StepSettings, step_settings, training_plan
from tests.support.prescribed_gradients import recipe


def make_settings(
    learning_rate: float = 0.0, weight_decay: float = 0.0, **changes: Any
) -> StepSettings:
    """Make settings of a step; `changes`: other fields. The dropout is the model's by default."""
    values = {"learning_rate": learning_rate, "weight_decay": weight_decay, "dropout": None}
    return replace(step_settings(recipe(), training_plan(recipe()), 0), **(values | changes))
