"""Where each figure stands in TensorBoard.

Groups are numbered in the order in which a person looks at them. What there is of each language
comes last, in groups of its own that the board shows closed: two thousand languages must not drown
the rest. Curves that belong together are drawn together on the page CUSTOM SCALARS.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmbert.training.metrics.results import Losses

# What TensorBoard's page CUSTOM SCALARS shows: {category: {title: [kind, [tags]]}}.
CustomScalarsLayout = dict[str, dict[str, list[Any]]]

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
# Languages whose realised and wanted shares are drawn in one chart.
MAX_CHARTED_LANGUAGES = 4


def training_tags(
    record: Mapping[str, Any], *, settings: Iterable[str], optimizer_metrics: Iterable[str]
) -> dict[str, float | None]:
    """A log line's figures by tag; time as the share of the interval that each activity took.

    Args:
        settings: keys of the record that are settings of the step.
        optimizer_metrics: keys of the record that the optimizer reported.
    """
    values: dict[str, float | None] = {tag: record[name] for name, tag in _TAGS.items()}
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


def validation_tags(losses: Losses) -> dict[str, float | None]:
    """A held-out evaluation's losses by tag."""
    tiers = {f"2_loss_by_tier/held_out_{name}": loss for name, loss in losses.tiers.items()}
    languages = {f"language_loss_held_out/{k}": loss for k, loss in losses.languages.items()}
    return {"1_loss/held_out": losses.overall} | tiers | languages


def custom_scalars_layout(
    tiers: Sequence[str], largest_languages: Sequence[str]
) -> CustomScalarsLayout:
    """Charts of several curves, for a run whose phases (and so tiers) are `tiers`; a chart takes
    every tag in which one of its own is found."""

    def lines(*tags: str) -> list[Any]:
        return ["Multiline", list(tags)]

    shares = [
        f"{group}/{language}"
        for language in largest_languages[:MAX_CHARTED_LANGUAGES]
        for group in ("language_share", "language_share_wanted")
    ]
    return {
        "Loss": {
            "training and held out": lines("1_loss/train", "1_loss/held_out"),
            "training, by tier": lines(*(f"2_loss_by_tier/train_{tier}" for tier in tiers)),
            "held out, by tier": lines(*(f"2_loss_by_tier/held_out_{tier}" for tier in tiers)),
        },
        "Schedule and data": {
            "mask ratio, temperature, dropout": lines(
                "3_schedule/mask_ratio", "3_schedule/temperature", "3_schedule/dropout"
            ),
            "learning rate": lines("3_schedule/learning_rate"),
            "largest languages: share of tokens, and wanted": lines(*shares),
        },
        "Optimiser and speed": {
            "gradient norm": lines("4_optimizer/gradient_norm"),
            "tokens a second, all and per device": lines("6_speed/tokens_per_second"),
            "share of the time": lines("7_time/.*"),
        },
    }
