"""Table of a decay's losses for the terminal: extremes and means of new and old languages."""

from collections.abc import Sequence

from mmbert.command_line.tables import WholeTable
from mmbert.decay.comparison import ONTO, RESULT, START, TRAINED, DecayComparison, LanguageLosses

EXTREMES_SHOWN = 6
"""Number of languages at each end (largest fall and rise) of a shortened group."""
_HEADINGS = {START: "before", ONTO: "onto", TRAINED: "trained", RESULT: "after"}


def render(comparison: DecayComparison, *, all_languages: bool = False) -> WholeTable:
    """Build the table: new, then old languages by rising change, each with its mean.

    Long groups show only the languages with the largest fall and rise unless `all_languages`.
    Means are per masked token.
    """
    roles = list(comparison.models)
    table = WholeTable(
        title=f"Held-out loss before and after {comparison.tokens:,} tokens (nats "
        f"per masked token, {comparison.mask_ratio:.0%} masked, documents cut to "
        f"{comparison.context:,}); merge: {comparison.merge}",
        title_justify="left",
    )
    table.add_column("language")
    for heading in ("trained on", "masked", *_headings(comparison, roles), "change"):
        table.add_column(heading, justify="right")
    for source in ("new", "old"):
        rows = [row for row in comparison.languages if row.source == source]
        if rows:
            _add_group(table, comparison, rows, f"all {source} ({len(rows)})", all_languages)
    return table


def _headings(comparison: DecayComparison, roles: Sequence[str]) -> list[str]:
    headings = dict(_HEADINGS)
    if comparison.before == ONTO:
        headings |= {START: "state", ONTO: "before"}
    return [headings[role] for role in roles]


def _add_group(
    table: WholeTable,
    comparison: DecayComparison,
    rows: Sequence[LanguageLosses],
    title: str,
    all_languages: bool,
) -> None:
    rows = sorted(rows, key=lambda row: comparison.change(row.losses))
    left_out = len(rows) - 2 * EXTREMES_SHOWN
    shortened = left_out > EXTREMES_SHOWN and not all_languages
    for rank, row in enumerate(rows):
        if shortened and EXTREMES_SHOWN <= rank < len(rows) - EXTREMES_SHOWN:
            if rank == EXTREMES_SHOWN:
                table.add_row(f"… {left_out} more: --all, or decay.tsv", style="dim")
            continue
        table.add_row(row.language, *_cells(comparison, [row]))
    table.add_row(title, *_cells(comparison, rows), style="bold", end_section=True)


def _cells(comparison: DecayComparison, rows: Sequence[LanguageLosses]) -> list[str]:
    masked = sum(row.masked_tokens for row in rows)
    losses = {
        role: sum(row.losses[role] * row.masked_tokens for row in rows) / masked
        for role in comparison.models
    }
    return [
        f"{sum(row.trained_tokens for row in rows):,}",
        f"{masked:,}",
        *(f"{loss:.3f}" for loss in losses.values()),
        f"{comparison.change(losses):+.3f}",
    ]
