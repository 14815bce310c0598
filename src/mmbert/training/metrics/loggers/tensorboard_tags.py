"""TensorBoard tags of the metrics, and the layout of the Custom Scalars page.

Group names start with a number that orders them by importance. Per-language metrics have separate
groups, last and collapsed, so that two thousand languages do not hide the others.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbert.recipe import Objective
from mmbert.training.metrics.results import Losses

# {category: {chart title: [kind, [tags]]}}
CustomScalarsLayout = dict[str, dict[str, list[Any]]]

# Prefix of the copied tags shown in multi-curve charts (see `TensorBoardLogger`).
COLORED = "chart/"
SECONDS_PER_HOUR = 3600.0

_TAGS = {
    "loss": "1_loss/train",
    "rows_per_step": "3_schedule/rows_per_step",
    "tokens": "3_schedule/tokens",
    "gradient_norm": "4_optimizer/gradient_norm",
    "packing_efficiency": "5_data/packing_efficiency",
    "share_error_max": "5_data/share_error_max",
    "epochs_max": "5_data/epochs_max",
    "epochs_median": "5_data/epochs_median",
    "tokens_per_second": "6_speed/tokens_per_second",
    "tokens_per_second_per_device": "6_speed/tokens_per_second_per_device",
    "mfu": "6_speed/mfu",
    "model_flops_per_second": "6_speed/model_flops_per_second",
    "peak_memory_mib": "8_memory/peak_mib",
}
_LANGUAGE_GROUPS = {
    "loss_by_language": "language_loss",
    "share_by_language": "language_share",
    "wanted_share_by_language": "language_share_wanted",
    "epochs_by_language": "language_epochs",
}
# Maximum number of languages in the chart of actual and planned shares.
MAX_CHARTED_LANGUAGES = 4


def training_tags(
    record: Mapping[str, Any], *, settings: Iterable[str], optimizer_metrics: Iterable[str]
) -> dict[str, float | None]:
    """Return the metrics of a record by tag, with region times as fractions of the interval.

    Args:
        settings: record keys of step settings (see `StepSettings`).
        optimizer_metrics: record keys of optimizer metrics.
    """
    values: dict[str, float | None] = {tag: record[name] for name, tag in _TAGS.items()}
    values["6_speed/own_work_max_over_median"] = record.get("own_work_max_over_median")
    values |= {f"3_schedule/{name}": record[name] for name in settings}
    values |= {f"4_optimizer/{name}": record[name] for name in optimizer_metrics}
    for name in ("seconds_left_in_phase", "seconds_left"):
        tag = name.replace("seconds", "hours")
        values[f"6_speed/{tag}"] = record[name] / SECONDS_PER_HOUR
    for name, seconds in record["time"].items():
        values[f"7_time/{name}"] = seconds / record["interval_seconds"]
    for tier, loss in record["loss_by_tier"].items():
        values[f"2_loss_by_tier/train_{tier}"] = loss
    for figure, group in _LANGUAGE_GROUPS.items():
        for language, value in record.get(figure, {}).items():
            values[f"{group}/{language}"] = value
    return values


def validation_tags(losses: Mapping[Objective, Losses]) -> dict[str, float | None]:
    """Return the losses of a validation by tag; those of next tokens end or begin with `causal`."""
    masked = losses["masked"]
    tags = {"1_loss/held_out": masked.overall}
    tags |= {f"2_loss_by_tier/held_out_{name}": loss for name, loss in masked.tiers.items()}
    tags |= {f"language_loss_held_out/{name}": loss for name, loss in masked.languages.items()}
    if (causal := losses.get("causal")) is not None:
        tags["1_loss/held_out_causal"] = causal.overall
        tags |= {
            f"2_loss_by_tier/causal_held_out_{name}": loss for name, loss in causal.tiers.items()
        }
        tags |= {
            f"language_loss_held_out_causal/{name}": loss for name, loss in causal.languages.items()
        }
    return tags


@dataclass(frozen=True)
class Chart:
    """Chart on the Custom Scalars page of TensorBoard; shows the tags that match one of `tags`."""

    category: str
    title: str
    tags: tuple[str, ...]
    """Regular expressions, matched at the beginning of a tag."""
    several: bool = True
    """Whether the chart has several curves, which need different colors."""

    def matches(self, tag: str) -> bool:
        """Whether the chart shows `tag`."""
        return any(re.match(pattern, tag) for pattern in self.tags)


def charts(
    tiers: Sequence[str], largest_languages: Sequence[str], rate_groups: Sequence[str] = ()
) -> list[Chart]:
    """Return the charts of a run.

    Args:
        tiers: names of the language tiers (the phases).
        rate_groups: groups of parameters with a learning rate of their own.
    """
    loss, schedule, speed = "Loss", "Schedule and data", "Optimizer and speed"
    shares = tuple(
        f"{group}/{language}$"
        for language in largest_languages[:MAX_CHARTED_LANGUAGES]
        for group in ("language_share", "language_share_wanted")
    )
    names = ("mask_ratio", "predicted_share", "temperature", "dropout")
    settings = tuple(f"3_schedule/{name}" for name in names)
    return [
        Chart(loss, "training and held out", ("1_loss/train", "1_loss/held_out")),
        *(
            Chart(
                loss, f"{name}, by tier", tuple(f"2_loss_by_tier/{key}_{tier}$" for tier in tiers)
            )
            for name, key in (("training", "train"), ("held out", "held_out"))
        ),
        Chart(schedule, "mask ratio, temperature, dropout", settings),
        Chart(schedule, "learning rate", ("3_schedule/learning_rate",), several=bool(rate_groups)),
        Chart(schedule, "largest languages: share of tokens, and planned share", shares),
        Chart(speed, "gradient norm", ("4_optimizer/gradient_norm",), several=False),
        Chart(speed, "tokens per second, all and per device", ("6_speed/tokens_per_second",)),
        Chart(speed, "fraction of the time", ("7_time/",)),
    ]


def custom_scalars_layout(shown: Sequence[Chart]) -> CustomScalarsLayout:
    """Return the layout of the Custom Scalars page."""
    layout: CustomScalarsLayout = {}
    for chart in shown:
        prefix = COLORED if chart.several else ""
        patterns = [prefix + tag for tag in chart.tags]
        layout.setdefault(chart.category, {})[chart.title] = ["Multiline", patterns]
    return layout
