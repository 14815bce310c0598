"""The sections of the page: which charts they have, and how to read each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmbert.report.axes import Quantity
from mmbert.report.curves import Columns
from mmbert.report.figures import LOSS, Figures, Section
from mmbert.report.run import Run


def all_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the sections with charts, in the order of the page."""
    figures = Figures(runs)
    parts = (_loss, _languages, _speed, _optimizer, _events)
    return [part(figures) for part in parts]


def _loss(figures: Figures) -> Section:
    """Training loss over all and by tier, held-out loss by tier."""
    section = Section("loss", "Loss")
    figures.add_curves(
        section, "loss", "Training loss", LOSS, _single("loss", "all"),
        "Mean over all masked tokens since the previous line of the log. It depends on the "
        "mask ratio, and so steps at phases. Gray dashed lines: starts and rollbacks."
        + (" In causal phases, over all predicted next tokens." if figures.any_causal else "")
        + (" Lines in a run's color: its phases." if figures.phases_differ else ""),
        names=figures.tiers, marks=figures.restarts(),
    )  # fmt: skip
    figures.add_curves(
        section, "loss-by-tier", "Training loss by tier", LOSS,
        lambda run: run.log.series("loss_by_tier"),
        "A tier is the languages that a phase is the first to train on.",
        names=figures.tiers,
    )  # fmt: skip
    figures.add_held_out(section)
    return section


def _languages(figures: Figures) -> Section:
    """Gain, shares and epochs by language."""
    section = Section("languages", "Languages")
    size = Quantity("Tokens of training data", ",", "size", log=True)
    figures.add_scatter(
        section, "gain", "Gain by size of the language",
        ("size", size),
        ("gain", Quantity("Gain (nats)", ".4f", "gain", axis_format="~g", zero=True)),
        "Held-out loss at the start minus the last one measured, on the same masks. Higher is "
        "better.",
        {"size": ",", "start": ".4f", "end": ".4f", "gain": ".4f"},
    )  # fmt: skip
    share = {"planned": ".4~%", "share": ".4~%"}
    figures.add_scatter(
        section, "shares", "Realized against planned share",
        ("planned", Quantity("Planned share of the tokens", ".4~%", axis_format="~p", log=True)),
        ("share", Quantity("Realized share", ".4~%", axis_format="~p", log=True)),
        "Share of the tokens so far. On the line, a language has what was planned.",
        share, diagonal=True,
    )  # fmt: skip
    figures.add_curves(
        section, "share-error", "Largest error of a share",
        Quantity("Error (share of the tokens)", ".4%", "error", axis_format="~p", zero=True),
        _single("share_error_max", "largest error"),
        "Largest difference between realized and planned share of a language of a source.",
    )  # fmt: skip
    epochs = Quantity("Epochs", ".3f", "epochs", axis_format="~g", zero=True)
    figures.add_curves(
        section, "epochs", "Epochs", epochs,
        _several(("epochs_max", "maximum"), ("epochs_median", "median")),
        "Passes over the training data of a language, so far.",
    )  # fmt: skip
    figures.add_scatter(
        section, "epochs-by-size", "Epochs by size of the language",
        ("size", size), ("epochs", epochs),
        "Small languages repeat more: how much follows from the temperature.",
        {"size": ",", "epochs": ".3f"},
    )  # fmt: skip
    return section


def _speed(figures: Figures) -> Section:
    """Throughput, utilization, time by part and memory."""
    section = Section("speed", "Speed")
    figures.add_curves(
        section, "tokens-per-second", "Throughput",
        Quantity("Tokens per second", ",.0f", "tokens/s", zero=True),
        _single("tokens_per_second", "tokens/s"),
        "Tokens without padding, over all devices. The time of validation is left out.",
    )  # fmt: skip
    figures.add_curves(
        section, "mfu", "Model-FLOPs utilization",
        Quantity("Fraction of the peak", ".2%", "MFU", axis_format=".0%", zero=True),
        _single("mfu", "MFU"),
        "FLOPs that the model needs over what the devices could do at their peak in bfloat16. "
        "Not logged where the peak is unknown, as on a CPU.",
    )  # fmt: skip
    figures.add_curves(
        section, "model-flops", "Model FLOPs per second",
        Quantity("FLOP/s, all devices", ".4~s", "FLOP/s", zero=True),
        _single("model_flops_per_second", "FLOP/s"),
        "FLOPs that the model needs, over all devices.",
    )  # fmt: skip
    figures.add_curves(
        section, "time", "Time by part",
        Quantity("Fraction of the time", ".2%", "fraction", axis_format=".0%", zero=True),
        _time_fractions,
        "Time in each part, as a fraction of the time between two lines of the log. Parts may "
        "overlap: communication within the backward pass counts in both.",
    )  # fmt: skip
    figures.add_curves(
        section, "memory", "Peak memory",
        Quantity("MiB", ",.0f", "MiB", axis_format=",.0f", zero=True),
        _single("peak_memory_mib", "MiB"),
        "Maximum over the devices; on a CPU, of the process.",
    )  # fmt: skip
    return section


def _optimizer(figures: Figures) -> Section:
    """Gradient norm and the schedule."""
    section = Section("optimizer", "Optimizer and schedule")
    for key, title, quantity, text in (
        ("gradient_norm", "Gradient norm",
         Quantity("Gradient norm", ".4g", axis_format="~g", log=True),
         "Of the last step before each line of the log."),
        ("learning_rate", "Learning rate",
         Quantity("Learning rate", ".3e", axis_format="~e", zero=True),
         "Of the groups of parameters with a rate of their own, too."
         if any(map(_group_rates, figures.runs)) else ""),
        ("mask_ratio", "Mask ratio",
         Quantity("Masked tokens", ".2%", axis_format=".0%", zero=True), ""),
        *([] if not figures.any_causal else [
            ("predicted_share", "Predicted share, causal",
             Quantity("Predicted tokens", ".2%", axis_format=".0%", zero=True),
             "Of causal phases, whose tokens are predicted from those before them."),
        ]),
        ("temperature", "Temperature",
         Quantity("Exponent of the size", ".3f", axis_format="~g", zero=True),
         "Tokens of a language are in proportion to its size to the power of this."),
    ):  # fmt: skip
        columns = _learning_rates if key == "learning_rate" else _single(key, title)
        figures.add_curves(section, key.replace("_", "-"), title, quantity, columns, text)
    return section


def _events(figures: Figures) -> Section:
    """Restarts and faults on the token axis."""
    section = Section("events", "Restarts and faults")
    figures.add_events(
        section, "events", "Events",
        "Between two lines of the log, the tokens of an event are interpolated. Events that a "
        "later restart has undone are shown too.",
    )  # fmt: skip
    return section


def _learning_rates(run: Run) -> dict[str, npt.NDArray[np.float64]]:
    return {**_single("learning_rate", "Learning rate")(run), **_group_rates(run)}


def _group_rates(run: Run) -> dict[str, npt.NDArray[np.float64]]:
    """Return the learning rates of groups of parameters, by group."""
    prefix = "learning_rate_"
    return {
        key.removeprefix(prefix): column
        for key, column in run.log.columns.items()
        if key.startswith(prefix)
    }


def _single(key: str, name: str) -> Columns:
    return _several((key, name))


def _several(*named: tuple[str, str]) -> Columns:

    def columns(run: Run) -> dict[str, npt.NDArray[np.float64]]:
        return {name: run.log.columns[key] for key, name in named if key in run.log.columns}

    return columns


def _time_fractions(run: Run) -> dict[str, npt.NDArray[np.float64]]:
    seconds = run.log.column("interval_seconds")
    with np.errstate(divide="ignore", invalid="ignore"):
        # A part that a record does not name took no time.
        parts = {
            name: np.nan_to_num(part, nan=0.0) for name, part in run.log.series("time").items()
        }
        return {name: part / seconds for name, part in parts.items()}
