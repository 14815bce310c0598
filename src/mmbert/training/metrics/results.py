"""`RUN/results.json` and the summary table: tokens, throughput and held-out loss of each phase."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from mmbert.command_line.console import PlainConsole
from mmbert.command_line.tables import WholeTable
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.files import write_json
from mmbert.model.flops import MFU_FORMULA
from mmbert.recipe import Objective


class Losses(BaseModel):
    """Held-out losses in nats per predicted token, omitting tiers and languages without text."""

    overall: float | None
    tiers: dict[str, float] = {}
    languages: dict[str, float] = {}

    @classmethod
    def of(cls, losses: LossTable, table: ComponentTable) -> "Losses":
        """Compute the mean losses over all tokens, by tier and by language."""
        return cls(
            overall=losses.mean(),
            tiers=losses.by_tier(table),
            languages=losses.by_language(table),
        )


Span = tuple[Losses | None, Losses | None]
"""Losses at the start and at the end of a phase."""


class PhaseResult(BaseModel):
    """Settings of a phase, and its results so far."""

    model_config = ConfigDict(validate_assignment=True)

    name: str
    context: int
    objective: Objective = "masked"
    mask_ratio: float | None = None
    """None in a causal phase."""
    predicted_share: float | None = None
    """None in a masked phase."""
    temperature: str
    languages: int
    planned_tokens: int
    first_step: int
    end_step: int
    tokens: int = 0
    """Nominal tokens (with padding) of the completed steps, skipped ones included."""
    tokens_elsewhere: int = 0
    """Those of `tokens` that another trainer had trained on before an import."""
    seconds: float = 0.0
    """Time of the steps over all starts, excluding validation."""
    held_out_start: Losses | None = None
    """Of masked tokens, whatever the phase's objective."""
    held_out_end: Losses | None = None
    held_out_causal_start: Losses | None = None
    """Of next tokens, if the recipe has causal phases."""
    held_out_causal_end: Losses | None = None

    @property
    def tokens_per_second(self) -> float:
        """Throughput of the phase over all devices."""
        return (self.tokens - self.tokens_elsewhere) / self.seconds if self.seconds else 0.0

    @property
    def prediction(self) -> str:
        """The fraction of tokens that are predicted, with the objective if it is causal."""
        if self.objective == "causal":
            return f"causal {self.predicted_share:g}"
        return f"{self.mask_ratio:g}"


class Results(BaseModel):
    """Content of results.json."""

    name: str
    devices: int
    phases: list[PhaseResult]
    unigram: Losses | None = None
    """Losses of a unigram model of the training tokens on the same held-out tokens."""
    mfu_formula: str = MFU_FORMULA

    @classmethod
    def read(cls, run_folder: Path) -> "Results | None":
        """Read the results of an earlier start; None if missing or unreadable."""
        try:
            return cls.model_validate_json((run_folder / "results.json").read_bytes())
        except (OSError, ValueError):
            return None

    def merge_earlier(self, earlier: "Results") -> None:
        """Take over the results of an earlier start for the same phases, and its unigram loss."""
        for number, phase in enumerate(self.phases):
            for before in earlier.phases:
                if (before.name, before.first_step) == (phase.name, phase.first_step):
                    kept = {
                        "tokens": before.tokens,
                        "tokens_elsewhere": before.tokens_elsewhere,
                        "seconds": before.seconds,
                        "held_out_start": before.held_out_start,
                        "held_out_end": before.held_out_end,
                        "held_out_causal_start": before.held_out_causal_start,
                        "held_out_causal_end": before.held_out_causal_end,
                    }
                    self.unigram = earlier.unigram
                    self.phases[number] = phase.model_copy(update=kept)

    def rewind(self, step: int) -> None:
        """Discard the results after `step`, where training resumes."""
        for phase in self.phases:
            if phase.end_step > step:
                phase.held_out_end = phase.held_out_causal_end = None
            if phase.first_step > step:
                phase.held_out_start = phase.held_out_causal_start = None
                phase.tokens, phase.seconds = 0, 0.0

    def write(self, run_folder: Path) -> None:
        """Write the file atomically."""
        values = self.model_dump()
        for phase, entry in zip(self.phases, values["phases"], strict=True):
            entry["tokens_per_second"] = round(phase.tokens_per_second, 1)
        write_json(run_folder / "results.json", values)


def print_summary(results: Results, run_folder: Path, console: Console | None = None) -> None:
    """Print the summary table of a run."""
    console = console or PlainConsole()
    causal = any(phase.objective == "causal" for phase in results.phases)
    table = WholeTable(title=f"{results.name}: what each phase saw and learned")
    for heading in (
        "phase",
        "tokens",
        "languages",
        "mask",
        "temperature",
        "context",
        "held-out loss",
        *(["causal loss"] if causal else []),
        "tokens/s",
    ):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in results.phases:
        table.add_row(
            phase.name,
            f"{phase.tokens:,}",
            str(phase.languages),
            phase.prediction,
            phase.temperature,
            str(phase.context),
            _span(phase.held_out_start, phase.held_out_end),
            *([_span(phase.held_out_causal_start, phase.held_out_causal_end)] if causal else []),
            f"{phase.tokens_per_second:,.0f}",
        )
    console.print(table)
    title = "Held-out loss by tier (nats per masked token, the same masks each time)"
    spans = [(phase.held_out_start, phase.held_out_end) for phase in results.phases]
    console.print(_tier_table(results, title, spans))
    if causal:
        title = "Held-out causal loss by tier (nats per next token, the same tokens each time)"
        spans = [(one.held_out_causal_start, one.held_out_causal_end) for one in results.phases]
        console.print(_tier_table(results, title, spans))
    last = results.phases[-1]
    end = last.held_out_causal_end if last.objective == "causal" else last.held_out_end
    overall = results.unigram.overall if results.unigram else None
    if overall is not None and end is not None and end.overall is not None:
        gain = overall - end.overall
        own = "causal loss" if last.objective == "causal" else ""
        console.print(
            f"A unigram model's loss on the same held-out tokens is {overall:.3f} nats; this "
            f"model's {own}{' ' if own else ''}is {end.overall:.3f}, "
            f"{'better' if gain >= 0 else 'worse'} by {abs(gain):.3f}."
        )
    if (run_folder / "tensorboard").exists():
        console.print(f"TensorBoard: {run_folder / 'tensorboard'}", soft_wrap=True, markup=False)
    console.print(f"Checkpoints: {run_folder / 'checkpoints'}", soft_wrap=True, markup=False)
    console.print(f"Results:     {run_folder / 'results.json'}", soft_wrap=True, markup=False)


def _tier_table(results: Results, title: str, spans: Sequence[Span]) -> WholeTable:
    """Build the table of losses by tier at the start and end of each phase."""
    tiers = WholeTable(title=title)
    tiers.add_column("tier (languages first seen in)")
    for phase in results.phases:
        tiers.add_column(phase.name, justify="right")
    tiers.add_column("unigram", justify="right")
    unigram = results.unigram
    for name in [phase.name for phase in results.phases]:
        cells = [_tier_span(start, end, name) for start, end in spans]
        tiers.add_row(name, *cells, _number(unigram.tiers.get(name) if unigram else None))
    overall = [_span(start, end) for start, end in spans]
    tiers.add_row("all", *overall, _number(unigram.overall if unigram else None))
    return tiers


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(start: Losses | None, end: Losses | None) -> str:
    return f"{_number(start.overall if start else None)} → {_number(end.overall if end else None)}"


def _tier_span(start: Losses | None, end: Losses | None, tier: str) -> str:
    found = (losses.tiers.get(tier) if losses else None for losses in (start, end))
    return " → ".join(map(_number, found))
