"""Reports of held-out losses: terminal table, and TSV file of all languages."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmbert.command_line.tables import WholeTable
from mmbert.evaluation.masked_loss import HeldOutEvaluation
from mmbert.files import atomic_write

EXTREMES_SHOWN = 6
"""Number of languages at each end (lowest and highest loss) of a shortened table."""
_HEADINGS = ("language", "{} tokens", "loss (nats)", "unigram", "gain")
_KINDS = {"masked": "masked", "causal": "next"}


def render_losses(found: HeldOutEvaluation, *, all_languages: bool = False) -> WholeTable:
    """Build a table of languages by ascending loss, followed by tiers and the overall loss.

    Long tables show only the languages with the lowest and highest loss unless `all_languages`.
    """
    kind = "predicted from the tokens before" if found.objective == "causal" else "masked"
    table = WholeTable(
        title=f"Held-out loss, {found.mask_ratio:.0%} {kind}, documents cut to {found.context:,}",
        title_justify="left",
    )
    table.add_column(_HEADINGS[0])
    for heading in _HEADINGS[1:]:
        table.add_column(heading.format(_KINDS[found.objective]), justify="right")
    languages = _languages(found)
    left_out = len(languages) - 2 * EXTREMES_SHOWN
    shortened = left_out > EXTREMES_SHOWN and not all_languages
    for rank, (name, index) in enumerate(languages):
        if shortened and EXTREMES_SHOWN <= rank < len(languages) - EXTREMES_SHOWN:
            if rank == EXTREMES_SHOWN:
                table.add_row(f"… {left_out} more: --all, or --report FILE", style="dim")
            continue
        table.add_row(name, *_cells(found, np.array([index])))
    table.add_section()
    for tier, components in _tiers(found).items():
        table.add_row(f"first seen in {tier} ({len(components)})", *_cells(found, components))
    table.add_row("all", *_cells(found, np.arange(len(found.names))), style="bold")
    return table


def write_losses(found: HeldOutEvaluation, path: Path) -> None:
    """Write one line per language: name, tier (empty if unknown), tokens, loss, unigram loss.

    The tokens are `masked_tokens` or, of a causal loss, `next_tokens`.
    """
    lines = [f"language\ttier\t{_KINDS[found.objective]}_tokens\tloss\tunigram_loss"]
    for name, index in _languages(found):
        tier = "" if found.table is None else found.table.tiers[index]
        tokens = found.losses.count[index]
        losses = (table.loss[index] / tokens for table in (found.losses, found.unigram))
        lines.append("\t".join([name, tier, f"{tokens:.0f}", *(f"{loss:.6f}" for loss in losses)]))
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def _languages(found: HeldOutEvaluation) -> list[tuple[str, int]]:
    """Return (name, component index) of languages with masked tokens, by ascending loss."""
    losses = found.losses.by_label(found.names)
    return [(name, found.names.index(name)) for name in sorted(losses, key=lambda n: losses[n])]


def _tiers(found: HeldOutEvaluation) -> dict[str, npt.NDArray[np.int64]]:
    """Return each tier's components with masked tokens, in phase order."""
    if found.table is None:
        return {}
    of_component = np.where(found.losses.count > 0, np.asarray(found.table.tiers), "")
    return {
        tier: np.flatnonzero(of_component == tier) for tier in found.losses.by_tier(found.table)
    }


def _cells(found: HeldOutEvaluation, components: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Format the table cells for `components`, which must have masked tokens."""
    loss, unigram = found.losses.mean(components), found.unigram.mean(components)
    assert loss is not None
    assert unigram is not None
    tokens = int(found.losses.count[components].sum())
    return f"{tokens:,}", f"{loss:.3f}", f"{unigram:.3f}", f"{unigram - loss:.3f}"
