"""Tables of an estimate for the terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from mmbert.command_line.tables import WholeTable
from mmbert.planner.estimate import Estimate
from mmbert.planner.matrix_exchange import RoutingCost
from mmbert.planner.memory import usable_bytes
from mmbert.recipe import format_quantity

_GIB = 1 << 30
# Number of largest and of most repeated languages shown, if there are more than twice as many.
_ROWS_SHOWN = 12


def render(estimate: Estimate) -> Group:
    """Build the tables and sentences of an estimate, to be printed by a rich Console."""
    return Group(*_parts(estimate))


def _parts(estimate: Estimate) -> Iterator[RenderableType]:
    recipe, gpu = estimate.recipe, estimate.gpu
    yield Text(
        f"{recipe.name} on {estimate.gpus} × {gpu.name}"
        f" ({gpu.flops / 1e12:.0f} TFLOP/s,"
        f" {usable_bytes(gpu.memory_bytes) / _GIB:.0f} GiB usable),"
        f" tensor {recipe.parallel.tensor}, ZeRO {recipe.parallel.zero_stage}",
        style="bold",
    )
    yield _parameters(estimate)
    yield _phases(estimate)
    if recipe.optimizer.given_group_rates:
        yield _learning_rates(estimate)
    yield _flops(estimate)
    yield _memory(estimate)
    yield _communication(estimate)
    if estimate.matrix_exchange is not None:
        yield _matrix_exchange(estimate, estimate.matrix_exchange)
    if estimate.languages is not None:
        yield _languages(estimate)
    yield Text(
        f"Total: {estimate.total_flops:.3g} FLOPs: {_duration(estimate.seconds)},"
        f" {estimate.gpu_hours:,.0f} GPU-hours at {estimate.mfu:.0%} MFU"
        f" ({estimate.mfu * gpu.flops / 1e12:.0f} TFLOP/s per GPU), including exposed"
        f" communication. {estimate.length_origin}."
    )
    yield Text(
        f"A checkpoint takes {estimate.checkpoint_bytes / _GIB:.2f} GiB;"
        f" {estimate.checkpoints_written} are written at token intervals and phase"
        f" ends, at most {estimate.checkpoints_kept} kept"
        f" ({estimate.checkpoints_kept * estimate.checkpoint_bytes / _GIB:.1f} GiB)."
    )
    for warning in estimate.warnings:
        yield Text(f"Warning: {warning}", style="yellow")


def _table(title: str) -> WholeTable:
    return WholeTable(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _parameters(estimate: Estimate) -> WholeTable:
    parameters = estimate.parameters
    table = _table("Parameters")
    for heading in ("embedding", "attention", "feed-forward", "norms", "head", "decoder bias"):
        table.add_column(heading, justify="right")
    table.add_column("total", justify="right", style="bold")
    table.add_row(
        *(
            f"{count:,}"
            for count in (
                parameters.embedding,
                parameters.attention,
                parameters.feed_forward,
                parameters.norms,
                parameters.head,
                parameters.decoder_bias,
                parameters.total,
            )
        )
    )
    return table


def _phases(estimate: Estimate) -> WholeTable:
    table = _table("Phases")
    for heading in (
        "phase", "tokens", "context", "mask", "dropout", "steps", "rows/step", "tokens/step",
        "step", "time", "GPU-hours",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in estimate.phases:
        sizes = [stage.rows for stage in phase.steps.stages]
        rows = str(sizes[-1]) if sizes[0] == sizes[-1] else f"{sizes[0]} → {sizes[-1]}"
        table.add_row(
            phase.steps.name,
            format_quantity(estimate.recipe.phases[phase.steps.index].tokens),
            f"{phase.context:,}",
            f"{'causal ' if phase.causal else ''}{phase.predicted_fraction:g}",
            f"{estimate.recipe.dropout_in(estimate.recipe.phases[phase.steps.index]):g}",
            f"{phase.steps.steps:,}",
            rows,
            f"{sizes[-1] * estimate.recipe.batch.row_tokens:,}",
            f"{phase.step_seconds:.2f} s",
            _duration(phase.seconds),
            f"{phase.seconds * estimate.gpus / 3600:,.0f}",
        )
    return table


def _learning_rates(estimate: Estimate) -> WholeTable:
    """Table of the phases' peak rates, where groups of parameters have rates of their own."""
    optimizer = estimate.recipe.optimizer
    table = _table("Peak learning rates")
    for heading in ("phase", "learning rate", *optimizer.given_group_rates):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in estimate.recipe.phases:
        peak = phase.learning_rate.peak or optimizer.learning_rate
        factors = (1.0, *(optimizer.rate_factors[group] for group in optimizer.given_group_rates))
        table.add_row(phase.name, *(f"{peak * factor:.3g}" for factor in factors))
    return table


def _flops(estimate: Estimate) -> WholeTable:
    table = _table("Training FLOPs per token (million)")
    for heading in (
        "phase", "encoder", "head", "global attention", "local attention", "total", "mean length",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in estimate.phases:
        flops = phase.flops
        parts = (flops.encoder, flops.head, flops.global_attention, flops.local_attention)
        table.add_row(
            phase.steps.name,
            *(f"{part / 1e6:,.1f}" for part in (*parts, flops.total)),
            f"{phase.mean_length:,.0f}",
        )
    return table


def _memory(estimate: Estimate) -> WholeTable:
    table = _table("Peak memory per GPU (GiB)")
    headings = ("weights", "gradients", "optimizer", "activations", "working", "total", "fits")
    for heading in ("tensor × data", "ZeRO", *headings):
        table.add_column(heading, justify="right")
    for layout in estimate.layouts:
        grid = f"{layout.tensor} × {layout.data}"
        style = "bold" if layout.chosen else None
        if layout.memory is None:
            if layout.zero_stage == 1:
                table.add_row(
                    grid, "any", *[""] * 6, f"no: {layout.infeasible_reason}", style=style
                )
            continue
        memory = layout.memory
        parts = (
            memory.weights,
            memory.gradients,
            memory.optimizer,
            memory.activations,
            memory.working,
            memory.total,
        )
        table.add_row(
            grid,
            str(layout.zero_stage),
            *(f"{part / _GIB:.1f}" for part in parts),
            ("yes" if layout.fits else "no") + (" (recipe)" if layout.chosen else ""),
            style=style,
        )
    return table


def _communication(estimate: Estimate) -> WholeTable:
    table = _table("Communication per GPU and step (GB sent)")
    for heading in (
        "phase", "gradients", "weights", "tensor parallel", "time without overlap",
        "of compute", "bound from",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in estimate.phases:
        traffic = phase.communication
        table.add_row(
            phase.steps.name,
            f"{traffic.gradient_bytes / 1e9:.2f}",
            f"{traffic.weight_bytes / 1e9:.2f}",
            f"{traffic.tensor_bytes / 1e9:.2f}",
            f"{traffic.seconds:.3f} s",
            f"{traffic.seconds / phase.compute_seconds:.1%}",
            "never"
            if phase.communication_bound_gpus is None
            else f"{phase.communication_bound_gpus} GPUs",
        )
    return table


def _matrix_exchange(estimate: Estimate, cost: RoutingCost) -> WholeTable:
    table = _table(
        f"Updates of matrices by {estimate.recipe.optimizer.name} in a step: {cost.matrices}"
        f" matrices with {cost.owners} owners"
    )
    for heading in (
        "", "matrices", "GFLOPs", "MB sent there", "MB sent back", "messages", "time", "of a step",
    ):  # fmt: skip
        table.add_column(heading, justify="right" if heading else "left")
    seconds = [phase.matrix_seconds for phase in estimate.phases]
    share = max(phase.matrix_seconds / phase.step_seconds for phase in estimate.phases)
    table.add_row(
        "all GPUs",
        str(cost.matrices),
        f"{cost.flops / 1e9:,.1f}",
        f"{cost.bytes_sent / 1e6:,.1f}",
        f"{cost.bytes_returned / 1e6:,.1f}",
        f"{cost.messages:,}",
        "",
        "",
    )
    table.add_row(
        "busiest GPU",
        str(cost.most_on_an_owner),
        f"{cost.most_flops / 1e9:,.1f}",
        f"{cost.most_from_a_holder / 1e6:,.1f}",
        f"{cost.most_from_an_owner / 1e6:,.1f}",
        f"{cost.most_messages:,}",
        f"{max(seconds) * 1e3:.2f} ms",
        f"{share:.2%}",
    )
    return table


def _languages(estimate: Estimate) -> WholeTable:
    languages = estimate.languages
    assert languages is not None
    count = len(languages.languages)
    table = _table(f"Languages: {count:,}; tokens and epochs from {languages.origin}")
    table.add_column("language")
    for phase in languages.phases:
        table.add_column(phase, justify="right")
        table.add_column("epochs", justify="right")
    if languages.same_text:
        table.add_column("total epochs", justify="right")
    totals = dict(languages.most_repeated())
    size = {
        language: sum(entry.tokens for entry in entries if entry is not None)
        for language, entries in languages.languages.items()
    }
    names = sorted(size, key=lambda language: -size[language])
    shown = names
    if len(names) > 2 * _ROWS_SHOWN:
        repeated = [name for name in totals if name not in names[:_ROWS_SHOWN]]
        shown = [*names[:_ROWS_SHOWN], "…", *repeated[:_ROWS_SHOWN]]
    for language in shown:
        if language == "…":
            table.add_row("… and the most repeated:", style="dim")
            continue
        cells = []
        for entry in languages.languages[language]:
            if entry is None:
                cells += ["", ""]
            else:
                cells += [_tokens(entry.tokens), f"{entry.epochs:.2f}"]
        if languages.same_text:
            cells.append(f"{totals[language]:.2f}")
        table.add_row(language, *cells)
    return table


def _tokens(count: float) -> str:
    for suffix, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g}{suffix}"
    return f"{count:.0f}"


def _duration(seconds: float) -> str:
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:,.1f} days"
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} hours"
    if seconds >= 120:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds:.1f} seconds"
