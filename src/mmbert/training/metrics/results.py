"""`RUN/results.json` and the summary table: tokens, throughput and held-out loss of each phase."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from mmbert.command_line.console import PlainConsole
from mmbert.command_line.tables import WholeTable
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.files import write_json
from mmbert.model.flops import MFU_FORMULA


class Losses(BaseModel):
    """Held-out losses in nats per masked token, omitting tiers and languages without text."""

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


class PhaseResult(BaseModel):
    """Settings of a phase, and its results so far."""

    model_config = ConfigDict(validate_assignment=True)

    name: str
    context: int
    mask_ratio: float
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
    held_out_end: Losses | None = None

    @property
    def tokens_per_second(self) -> float:
        """Throughput of the phase over all devices."""
        return (self.tokens - self.tokens_elsewhere) / self.seconds if self.seconds else 0.0


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
                    }
                    self.unigram = earlier.unigram
                    self.phases[number] = phase.model_copy(update=kept)

    def rewind(self, step: int) -> None:
        """Discard the results after `step`, where training resumes."""
        for phase in self.phases:
            if phase.end_step > step:
                phase.held_out_end = None
            if phase.first_step > step:
                phase.held_out_start, phase.tokens, phase.seconds = None, 0, 0.0

    def write(self, run_folder: Path) -> None:
        """Write the file atomically."""
        values = self.model_dump()
        for phase, entry in zip(self.phases, values["phases"], strict=True):
            entry["tokens_per_second"] = round(phase.tokens_per_second, 1)
        write_json(run_folder / "results.json", values)


def print_summary(results: Results, run_folder: Path, console: Console | None = None) -> None:
    """Print the summary table of a run."""
    console = console or PlainConsole()
    table = WholeTable(title=f"{results.name}: what each phase saw and learned")
    for heading in (
        "phase",
        "tokens",
        "languages",
        "mask",
        "temperature",
        "context",
        "held-out loss",
        "tokens/s",
    ):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in results.phases:
        table.add_row(
            phase.name,
            f"{phase.tokens:,}",
            str(phase.languages),
            f"{phase.mask_ratio:g}",
            phase.temperature,
            str(phase.context),
            _span(phase.held_out_start, phase.held_out_end),
            f"{phase.tokens_per_second:,.0f}",
        )
    console.print(table)
    tiers = WholeTable(
        title="Held-out loss by tier (nats per masked token, the same masks each time)"
    )
    tiers.add_column("tier (languages first seen in)")
    for phase in results.phases:
        tiers.add_column(phase.name, justify="right")
    tiers.add_column("unigram", justify="right")
    for name in [phase.name for phase in results.phases]:
        cells = [_tier_span(phase, name) for phase in results.phases]
        unigram = results.unigram.tiers.get(name) if results.unigram else None
        tiers.add_row(name, *cells, _number(unigram))
    overall = results.unigram.overall if results.unigram else None
    tiers.add_row(
        "all",
        *[_span(phase.held_out_start, phase.held_out_end) for phase in results.phases],
        _number(overall),
    )
    console.print(tiers)
    end = results.phases[-1].held_out_end
    if overall is not None and end is not None and end.overall is not None:
        gain = overall - end.overall
        console.print(
            f"A unigram model's loss on the same held-out tokens is {overall:.3f} nats; this "
            f"model's is {end.overall:.3f}, {'better' if gain >= 0 else 'worse'} by "
            f"{abs(gain):.3f}."
        )
    if (run_folder / "tensorboard").exists():
        console.print(f"TensorBoard: {run_folder / 'tensorboard'}", soft_wrap=True, markup=False)
    console.print(f"Checkpoints: {run_folder / 'checkpoints'}", soft_wrap=True, markup=False)
    console.print(f"Results:     {run_folder / 'results.json'}", soft_wrap=True, markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(start: Losses | None, end: Losses | None) -> str:
    return f"{_number(start.overall if start else None)} → {_number(end.overall if end else None)}"


def _tier_span(phase: PhaseResult, tier: str) -> str:
    start = phase.held_out_start.tiers.get(tier) if phase.held_out_start else None
    end = phase.held_out_end.tiers.get(tier) if phase.held_out_end else None
    return f"{_number(start)} → {_number(end)}"
