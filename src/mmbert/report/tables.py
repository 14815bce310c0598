"""Tables of the page, as text cells."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mmbert.recipe.flat import flatten
from mmbert.report.figures import ORDINARY_EVENTS
from mmbert.report.recipe_changes import changes
from mmbert.report.run import Run
from mmbert.report.run_log import Event
from mmbert.training.metrics.results import Losses, Results, Span

NONE = "–"
# Rows at the beginning and at the end of a long table of events.
SHOWN_EVENTS = 250
# Number of rows from which on a table is folded.
LONG = 12


@dataclass(frozen=True)
class Table:
    """A table; its cells are text, and are escaped by the template."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """Number of columns, from the left, that are words; the others are numbers."""
    text: str = ""
    folded: bool = False
    """Whether the table is shown only when asked for."""


def runs_table(runs: Sequence[Run]) -> Table:
    """Return an overview of the runs."""
    headings = (
        *("run", "recipe", "state", "tokenizer", "tokens", "loss", "held-out loss"),
        *("starts", "lines of log"),
    )
    rows = []
    for run in runs:
        loss = run.log.column("loss")
        held_out = [found.overall for found in run.held_out if found.overall is not None]
        rows.append(
            [
                run.label,
                run.name or NONE,
                _state(run),
                run.fingerprint[:12] if run.fingerprint else NONE,
                f"{run.tokens:,}" if len(run.log) else NONE,
                _number(float(loss[-1]) if len(loss) else None),
                _number(held_out[-1] if held_out else None),
                str(len(run.starts)),
                f"{run.log.lines:,}"
                + (f" ({run.log.repeated:,} repeated)" if run.log.repeated else ""),
            ]
        )
    return Table("", headings, rows, words=4)


def comparability(runs: Sequence[Run]) -> str | None:
    """Return a note if losses of the runs do not compare, because tokenizers differ."""
    groups: dict[str | None, list[str]] = {}
    for run in runs:
        groups.setdefault(run.fingerprint, []).append(run.label)
    if len(groups) < 2:
        return None
    unknown = groups.pop(None, [])
    parts = [
        f"{', '.join(labels)} ({fingerprint[:12] if fingerprint else NONE})"
        for fingerprint, labels in groups.items()
    ]
    note = ""
    if len(groups) > 1:
        note = (
            "Losses of these runs are not comparable: their tokenizers differ, and a loss is per "
            f"token. Tokenizers: {'; '.join(parts)}."
        )
    if unknown:
        note += f" Of {', '.join(unknown)} the tokenizer is unknown, and so whether it compares."
    return note.strip()


def held_out_tables(run: Run) -> list[Table]:
    """Return the held-out losses of a run by tier and by language; causal ones by tier."""
    tables = []
    if run.results is not None:
        phases = run.results.phases
        spans = [(phase.held_out_start, phase.held_out_end) for phase in phases]
        title = f"{run.label}: held-out loss by tier"
        tables.append(_tiers_table(run.results, title, spans, "masked"))
        if run.has_causal_phases:
            spans = [(phase.held_out_causal_start, phase.held_out_causal_end) for phase in phases]
            title = f"{run.label}: held-out causal loss by tier"
            tables.append(_tiers_table(run.results, title, spans, "next"))
    table = _languages_table(run)
    return [*tables, table] if table.rows else tables


def _tiers_table(results: Results, title: str, spans: Sequence[Span], what: str) -> Table:
    objectives = [
        f"{phase.name} ({phase.objective})" if phase.objective != "masked" else phase.name
        for phase in results.phases
    ]
    rows = [
        [name, *(_span(start, end, name) for start, end in spans),
         _number(_loss(results.unigram, name))]
        for name in [*(phase.name for phase in results.phases), "all"]
    ]  # fmt: skip
    return Table(
        title, ("tier", *objectives, "unigram model"), rows,
        text=f"At the start → at the end of each phase, nats per {what} token.",
    )  # fmt: skip


def _languages_table(run: Run) -> Table:
    start, end = run.held_out_by_language
    unigram = run.results.unigram if run.results is not None else None
    by_key, sizes = run.by_language, run.train_tokens
    shares = by_key.get("share_by_language", {})
    planned = by_key.get("wanted_share_by_language", {})
    epochs = by_key.get("epochs_by_language", {})
    rows = []
    for name in sorted({*start, *end, *shares, *sizes}):
        gain = start[name] - end[name] if name in start and name in end else None
        rows.append(
            [
                name,
                f"{sizes[name]:,}" if name in sizes else NONE,
                _number(start.get(name)),
                _number(end.get(name)),
                _number(gain),
                _number(unigram.languages.get(name) if unigram else None),
                f"{shares[name]:.4%}" if name in shares else NONE,
                f"{planned[name]:.4%}" if name in planned else NONE,
                f"{epochs[name]:.3f}" if name in epochs else NONE,
            ]
        )
    headings = (
        *("language", "tokens of data", "held out, first", "held out, last", "gain"),
        *("unigram model", "share", "planned share", "epochs"),
    )
    return Table(f"{run.label}: {len(rows):,} languages", headings, rows, folded=True)


def events_table(runs: Sequence[Run]) -> Table:
    """Return restarts and faults; of very many, the first and the last."""
    found = []
    for run in runs:
        events = [event for event in run.log.events if event.kind not in ORDINARY_EVENTS]
        tokens = run.tokens_at([event.step for event in events])
        found += [
            [run.label, _time(event), event.kind, event.text, f"{event.step:,}", f"{round(at):,}"]
            for event, at in zip(events, tokens, strict=True)
        ]
    text = ""
    if len(found) > 2 * SHOWN_EVENTS:
        text = f"The first and the last {SHOWN_EVENTS} of {len(found):,} events."
        found = [*found[:SHOWN_EVENTS], ["…"] * 6, *found[-SHOWN_EVENTS:]]
    headings = ("run", "time (UTC)", "kind", "text", "step", "tokens")
    return Table("Events", headings, found, words=4, text=text, folded=len(found) > LONG)


def starts_tables(run: Run) -> list[Table]:
    """Return where each start of a run ran, and what changed between starts."""
    known = [start for start in run.starts if isinstance(start.details.get("recipe"), dict)]
    if not known:
        return []
    rows = []
    for start in known:
        versions = _mapping(start.details.get("versions"))
        rows.append(
            [
                _time(start),
                f"{start.details.get('devices', NONE)} × {start.details.get('device_name', NONE)}",
                ", ".join(f"{name} {version}" for name, version in versions.items()),
                f"{start.step:,}",
                str(start.details.get("hosts", NONE)),
            ]
        )
    headings = ("time (UTC)", "devices", "versions", "step", "machines")
    title = f"{run.label}: starts"
    tables = [Table(title, headings, rows, words=3, folded=len(rows) > LONG)]
    changed = [
        [_time(later), f"{later.step:,}", change.key, change.before, change.after]
        for earlier, later in pairwise(known)
        for change in changes(_settings(earlier), _settings(later))
    ]
    if len(known) > 1:
        tables.append(
            Table(
                f"{run.label}: changes between starts",
                ("time (UTC)", "step", "key", "before", "after"),
                changed,
                words=5,
                text="" if changed else "Recipe, devices and versions were the same at all starts.",
                folded=len(changed) > LONG,
            )
        )
    return tables


def recipe_differences(runs: Sequence[Run]) -> Table | None:
    """Return the keys in which the recipes of several runs differ."""
    known = [run for run in runs if run.recipe is not None]
    if len(known) < 2:
        return None
    first = known[0].recipe or {}
    differences = {
        run.label: {change.key: change for change in changes(first, run.recipe or {})}
        for run in known[1:]
    }
    keys = dict.fromkeys(key for found in differences.values() for key in found)
    leaves = flatten(first)
    rows = []
    for key in keys:
        befores = [found[key].before for found in differences.values() if key in found]
        cells = [found[key].after if key in found else "=" for found in differences.values()]
        rows.append([key, befores[0] if key in leaves else NONE, *cells])
    return Table(
        "Differences between the recipes",
        ("key", *(run.label for run in known)),
        rows,
        words=len(known) + 1,
        text="“=”: as in the first run." if rows else "The recipes are the same.",
    )


def _settings(start: Event) -> dict[str, Any]:
    """Return what a start may change: recipe, devices and versions."""
    details = start.details
    return {
        **_mapping(details.get("recipe")),
        **{key: details[key] for key in ("hosts", "devices", "device_name") if key in details},
        "versions": _mapping(details.get("versions")),
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _state(run: Run) -> str:
    if not len(run.log):
        return "no step logged"
    if run.planned_steps is None:
        return f"step {run.step:,}"
    if run.step >= run.planned_steps:
        return f"finished ({run.planned_steps:,} steps)"
    return f"step {run.step:,} of {run.planned_steps:,}"


def _loss(losses: Losses | None, name: str) -> float | None:
    if losses is None:
        return None
    return losses.overall if name == "all" else losses.tiers.get(name)


def _span(start: Losses | None, end: Losses | None, name: str) -> str:
    before, after = _loss(start, name), _loss(end, name)
    return NONE if before is after is None else f"{_number(before)} → {_number(after)}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _time(event: Event) -> str:
    try:
        at = datetime.datetime.fromtimestamp(event.time or 0, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return NONE
    return f"{at:%Y-%m-%d %H:%M:%S}" if event.time else NONE
