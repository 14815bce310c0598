"""Settings of a step that no recipe decides."""

from typing import Any

from mmbert.recipe import RotaryBases
from mmbert.schedule import StepSettings


def make_settings(
    learning_rate: float = 0.0, weight_decay: float = 0.0, **changes: Any
) -> StepSettings:
    """Settings of a step; `changes`: its other fields."""
    values: dict[str, Any] = {
        "mask_ratio": 0.3,
        "dropout": None,  # the model's own
        "temperature": 1.0,
        "rotary_bases": RotaryBases.model_validate({"global": 10_000, "local": 10_000}),
    }
    return StepSettings(learning_rate=learning_rate, weight_decay=weight_decay, **values | changes)
