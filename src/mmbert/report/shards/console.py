"""Totals and the most noticeable languages, printed."""

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.text import Text

from mmbert.command_line.tables import WholeTable
from mmbert.report.shards.contents import LanguageContents, ShardsContents
from mmbert.report.shards.identification import SUSPICIOUS_SHARE, Identification

_SHOWN = 5
_SHOWN_SUSPICIOUS = 20


def print_contents(contents: ShardsContents, console: Console) -> None:
    """Print totals, the highest byte fallback and the most rejected documents."""
    languages = contents.languages
    tokens, size = sum(n.tokens for n in languages), sum(n.bytes for n in languages)
    names = {n.language for n in languages if n.component is not None}
    scripts = {n.script for n in languages if n.component is not None}
    _say(
        console,
        f"{_counted(len(names), 'language')} in {_counted(len(scripts), 'script')}, "
        f"{_counted(len(contents.sources), 'source')}: "
        f"{sum(n.documents for n in languages):,} training documents, {tokens:,} tokens, "
        f"{size:,} bytes",
    )
    rejected = contents.rejected()
    if rejected:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in rejected.most_common())
        _say(console, f"rejected: {reasons}")
    _print_highest(
        console,
        "Highest byte fallback",
        "tokens that are bytes",
        [n for n in languages if n.tokens],
        lambda n: n.figures.byte_fallback_share or 0.0,
    )
    _print_highest(
        console, "Most rejected", "of its documents", languages, lambda n: n.rejected_share
    )


def print_identification(found: Identification, console: Console) -> None:
    """Print the languages whose documents are mostly in another."""
    _say(
        console,
        f"{found.identifier}: {_counted(len(found.languages), 'language')} checked, "
        f"{len(found.not_checked):,} that it does not know not checked, "
        f"{len(found.suspicious):,} suspicious (less than {SUSPICIOUS_SHARE:.0%} of the sampled "
        "documents are of the language)",
    )
    if not found.suspicious:
        return
    table = _table("Suspicious", "same language", "documents", "most frequent other")
    for language in found.suspicious[:_SHOWN_SUSPICIOUS]:
        table.add_row(
            Text(f"{language.source}/{language.language}"),
            f"{language.share:.0%}",
            f"{language.documents}",
            Text(language.most_frequent_other),
        )
    console.print(table)
    if len(found.suspicious) > _SHOWN_SUSPICIOUS:
        _say(console, f"… and {len(found.suspicious) - _SHOWN_SUSPICIOUS:,} more, on the page")


def _print_highest(
    console: Console,
    title: str,
    heading: str,
    languages: Sequence[LanguageContents],
    share: Callable[[LanguageContents], float],
) -> None:
    chosen = sorted(languages, key=lambda n: (-share(n), n.language, n.source))[:_SHOWN]
    chosen = [language for language in chosen if share(language)]
    if not chosen:
        return
    table = _table(title, heading, "documents read", "tokens")
    for language in chosen:
        name = Text(f"{language.source}/{language.language}")
        values: list[Any] = [f"{share(language):.2%}", f"{language.read:,}", f"{language.tokens:,}"]
        table.add_row(name, *values)
    console.print(table)


def _table(title: str, *headings: str) -> WholeTable:
    table = WholeTable(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("language")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
