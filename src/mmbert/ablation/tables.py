"""Table of a comparison for the terminal."""

from mmbert.ablation.comparison import ALL, Comparison
from mmbert.command_line.tables import WholeTable


def render(comparison: Comparison) -> WholeTable:
    """Build a table with one section per ablation."""
    full = comparison.ablations[0]
    seeds = len(full.tiers[ALL].losses)
    each = ""
    if comparison.equal == "flops":
        each = f"{full.flops:.4g} FLOPs each, "
    elif {ablation.tokens for ablation in comparison.ablations} == {full.tokens}:
        each = f"{comparison.tokens:,} tokens each, "
    table = WholeTable(
        title=f"{comparison.recipe} and ablations, {each}{seeds} "
        f"seed{'s' if seeds > 1 else ''}: final held-out loss (nats per masked token, "
        f"{comparison.mask_ratio:.0%} masked, documents cut to {comparison.context:,})",
        title_justify="left",
    )
    table.add_column("ablation")
    table.add_column("tier (languages)")
    for heading in ("loss", "minus full", "standard error"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for heading in ("tokens", "FLOPs"):
        table.add_column(heading, justify="right")
    for ablation in comparison.ablations:
        for number, (tier, entry) in enumerate(ablation.tiers.items()):
            table.add_row(
                ablation.name if number == 0 else "",
                f"{tier} ({comparison.languages[tier]})",
                f"{entry.mean:.3f}",
                "" if entry.difference is None else f"{entry.difference:+.3f}",
                "" if entry.standard_error is None else f"{entry.standard_error:.3f}",
                entry.verdict,
                "" if number or ablation.tokens is None else f"{ablation.tokens:,}",
                "" if number or ablation.flops is None else f"{ablation.flops:.4g}",
                end_section=number == len(ablation.tiers) - 1,
            )
    return table


def describe_spread(comparison: Comparison) -> str:
    """Describe how far the full recipe's seeds are apart, and the threshold, in sentences."""
    spread, threshold = comparison.spread, comparison.threshold
    sentences = []
    if spread is not None:
        sentences.append(
            f"Spread of {spread.seeds} seeds of the full recipe: standard deviation "
            f"{spread.standard_deviation:.4f} nats, two of them "
            f"{spread.two_standard_deviations:.4f}."
        )
    if threshold is not None:
        sentences.append(f"Threshold: {threshold.nats:g} nats, written {threshold.written}.")
    return " ".join(sentences)
