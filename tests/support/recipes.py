"""Small recipes for the data tests."""

from __future__ import annotations

from typing import Any

from mmbert.recipe import Recipe
from mmbert.schedule import PhasePlan, TrainingPlan

PHASE: dict[str, Any] = {
    "context": 64,
    "languages": "all",
    "temperature": 0.7,
    "mask_ratio": 0.3,
    "rotary_bases": {"global": 10_000, "local": 10_000},
}


def phase(name: str, tokens: int, **changes: Any) -> dict[str, Any]:
    """Return the settings of a phase, with `changes`."""
    return {"name": name, "tokens": tokens, **PHASE, **changes}


def phase_of_row(plan: TrainingPlan, row: int) -> PhasePlan:
    """Return the phase that row `row` of the run belongs to."""
    return next(p for p in plan.phases if p.first_row <= row < p.first_row + p.rows)


def small_recipe(
    *phases: dict[str, Any],
    sources: list[dict[str, Any]] | None = None,
    row_tokens: int = 512,
    rows: int = 12,
    quantum: int = 6,
    seed: int = 21,
    **changes: Any,
) -> Recipe:
    """Return a recipe of the given phases over the source `web`."""
    return Recipe.model_validate(
        {
            "name": "test",
            "seed": seed,
            "model": {
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
            },
            "data": {"sources": sources or [{"name": "web"}]},
            "batch": {"row_tokens": row_tokens, "rows": rows, "quantum": quantum},
            "optimizer": {"learning_rate": 1e-3},
            "phases": list(phases),
            **changes,
        }
    )
