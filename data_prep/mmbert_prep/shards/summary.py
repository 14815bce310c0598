"""Summary of a run: `summary.json` and the table on the console."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel
from rich import box
from rich.console import Console

from mmbert.command_line.tables import WholeTable
from mmbert.data.shards.manifest import Manifest
from mmbert_prep.languages.report import NamedLanguage, describe_names
from mmbert_prep.readers import RejectReason
from mmbert_prep.readers.accounting import FileLoss
from mmbert_prep.readers.discovery import Discovery, language_remedy
from mmbert_prep.readers.rejection import ENCODING_REMEDY
from mmbert_prep.shards.intermediate import LanguageCounts

# Fits into 80 characters. b/tok is bytes per token, tok/word tokens per word.
_COLUMNS = ("language", "train", "heldout", "tokens", "b/tok", "tok/word", "bytes", "rejected")
DISABLED = "given up"
_MAX_ROWS = 25
_MAX_NAMES = 5


class LanguageSummary(BaseModel):
    """Summary of a language. `documents_read` = train + heldout + the sum of `rejected`."""

    documents_read: int
    train_documents: int
    train_tokens: int
    train_bytes: int
    heldout_documents: int
    heldout_tokens: int
    rejected: dict[RejectReason, int]
    cleaned: int
    bytes_per_token: float
    tokens_per_word: float
    characters_per_token: float
    byte_fallback_share: float
    unknown_share: float


class Summary(BaseModel):
    """Summary of a run, written once all languages are published."""

    fingerprint: str
    settings: dict[str, object]
    tokenizer: str
    accelerator: str
    """Fast encoder: "kitoken", "none", or "given up" (kitoken until its ids differed)."""
    languages: dict[str, LanguageSummary]
    without_text: dict[str, dict[RejectReason, int]]
    """Language without kept documents -> count per reason; "" for a missing language."""
    damaged_files: list[str]
    ignored_files: dict[str, list[str]]
    folders_without_language: list[str] = []
    """Folders of ignored files that need a run of their own with --language."""
    duplicates_of: dict[str, int] = {}
    """Earlier source of the same call -> documents that were dropped because it has them."""
    language_names: dict[str, NamedLanguage] = {}
    """Names in paths and columns that are no keys -> the language for which they were taken."""
    unused_overrides: list[str] = []
    """Lines of the language map whose names are in no path and no column."""
    input_bytes: int = 0
    """Bytes of the whole input; 0 if all of them were read."""
    unread_bytes: dict[str, int] = {}
    """Language -> input bytes that could not be read, or belong to damaged documents."""
    unnamed_bytes: int = 0
    """Input bytes without a language."""
    losses: list[FileLoss] = []
    """Files that lost bytes, those that lost most first."""

    def stored(self) -> dict[str, object]:
        """Return the content of summary.json."""
        # Without empty newer fields: equal runs of all versions write equal bytes.
        newer = (
            "folders_without_language",
            "duplicates_of",
            "language_names",
            "unused_overrides",
            "input_bytes",
            "unread_bytes",
            "unnamed_bytes",
            "losses",
        )
        exclude = {name for name in newer if not getattr(self, name)}
        content = self.model_dump(mode="json", exclude=exclude)
        if self.language_names:
            names = sorted(self.language_names.items())
            content["language_names"] = {name: use.stored() for name, use in names}
        return content

    def totals(self) -> dict[str, int]:
        """Return the sums over languages of documents, tokens and bytes."""
        names = (
            "documents_read",
            "train_documents",
            "train_tokens",
            "train_bytes",
            "heldout_documents",
            "heldout_tokens",
        )
        sums = {
            name: sum(getattr(language, name) for language in self.languages.values())
            for name in names
        }
        sums["documents_read"] += sum(
            count for reasons in self.without_text.values() for count in reasons.values()
        )
        return sums

    def rejected(self) -> dict[RejectReason, int]:
        """Return the rejected documents by reason, over all languages."""
        sums: dict[RejectReason, int] = {}
        reasons = [language.rejected for language in self.languages.values()]
        for rejected in [*reasons, *self.without_text.values()]:
            for reason, count in rejected.items():
                sums[reason] = sums.get(reason, 0) + count
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def summarize_language(manifest: Manifest, counts: LanguageCounts) -> LanguageSummary:
    """Compute the summary of a language from its manifest and counts."""
    tokens = manifest.train.tokens + manifest.heldout.tokens
    size = manifest.train.bytes + manifest.heldout.bytes
    words, measured = max(1, counts.measured_words), max(1, counts.measured_tokens)
    counted = max(1, tokens)
    return LanguageSummary(
        documents_read=manifest.documents_read,
        train_documents=manifest.train.documents,
        train_tokens=manifest.train.tokens,
        train_bytes=manifest.train.bytes,
        heldout_documents=manifest.heldout.documents,
        heldout_tokens=manifest.heldout.tokens,
        rejected={RejectReason(reason): n for reason, n in manifest.rejected.items()},
        cleaned=counts.cleaned,
        bytes_per_token=round(size / counted, 3),
        tokens_per_word=round(counts.measured_tokens / words, 3),
        characters_per_token=round(counts.measured_characters / measured, 3),
        byte_fallback_share=round(counts.byte_tokens / max(1, counts.tokens), 5),
        unknown_share=round(counts.unknown_tokens / max(1, counts.tokens), 5),
    )


def print_summary(console: Console, summary: Summary, output: object) -> None:
    """Print the largest languages, the totals, rejections and warnings."""
    table = WholeTable(
        title=f"{len(summary.languages)} languages (bytes: fraction of byte-fallback tokens)",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for column in _COLUMNS:
        justify: Literal["left", "right"] = "left" if column == "language" else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    order = sorted(summary.languages, key=lambda key: -summary.languages[key].train_tokens)
    for key in order[:_MAX_ROWS]:
        _add_row(table, key, summary.languages[key])
    if len(order) > _MAX_ROWS:
        table.add_row(f"+ {len(order) - _MAX_ROWS} more")
    console.print(table)
    totals = summary.totals()
    console.print(
        f"{totals['documents_read']:,} documents read: {totals['train_documents']:,} for training "
        f"({totals['train_tokens']:,} tokens), {totals['heldout_documents']:,} held out"
    )
    cleaned = sum(language.cleaned for language in summary.languages.values())
    if cleaned:
        console.print(f"changed by cleaning: {cleaned:,}", markup=False, soft_wrap=True)
    rejected = summary.rejected()
    if rejected:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items())
        console.print(f"rejected: {reasons}", markup=False, soft_wrap=True)
    if RejectReason.INVALID_UTF8 in rejected:
        console.print(f"invalid_utf8: {ENCODING_REMEDY}", soft_wrap=True, markup=False)
    for name, count in summary.duplicates_of.items():
        console.print(
            f"of these, documents that source {name} has: {count:,}", soft_wrap=True, markup=False
        )
    without = [key for key, language in summary.languages.items() if not language.heldout_documents]
    if without:
        console.print(
            f"too small for held-out documents: {len(without)} languages: {_first_names(without)}; "
            "a larger --heldout-fraction leaves fewer",
            soft_wrap=True,
        )
    if summary.accelerator == DISABLED:
        console.print(
            "disabled kitoken: its ids differed from those of SentencePiece, which encoded "
            "all later documents",
            soft_wrap=True,
            markup=False,
            style="yellow",
        )
    lost = sum(summary.unread_bytes.values())
    if lost:
        order = sorted(summary.unread_bytes, key=lambda key: -summary.unread_bytes[key])
        names = [f"{key or '(unknown language)'} {summary.unread_bytes[key]:,}" for key in order]
        console.print(
            f"unread: {lost:,} of {summary.input_bytes:,} bytes of the input "
            f"({lost / summary.input_bytes:.2%}): {_first_names(names)}",
            soft_wrap=True,
            markup=False,
            style="yellow",
        )
    if summary.unnamed_bytes:
        console.print(
            f"without a language: {summary.unnamed_bytes:,} of {summary.input_bytes:,} "
            f"bytes of the input ({summary.unnamed_bytes / summary.input_bytes:.2%})",
            soft_wrap=True,
            markup=False,
            style="yellow",
        )
    empty = [key or "(no language)" for key in summary.without_text]
    if empty:
        console.print(
            f"no documents kept of: {_first_names(empty)}",
            markup=False,
            style="yellow",
            soft_wrap=True,
        )
    for text in summary.damaged_files[:_MAX_NAMES]:
        console.print(
            f"damaged, read in part: {text}", soft_wrap=True, markup=False, style="yellow"
        )
    if len(summary.damaged_files) > _MAX_NAMES:
        console.print(
            f"… and {len(summary.damaged_files) - _MAX_NAMES} more",
            markup=False,
            style="yellow",
            soft_wrap=True,
        )
    for reason, names in summary.ignored_files.items():
        console.print(
            f"ignored, {reason}: {len(names)} ({_first_names(names)})", soft_wrap=True, markup=False
        )
    by_column = {name: use for name, use in summary.language_names.items() if use.documents}
    for line in describe_names(by_column):
        console.print(line, soft_wrap=True, markup=False)
    for line in summary.unused_overrides:
        console.print(f"not used: {line}", soft_wrap=True, markup=False)
    if summary.folders_without_language:
        remedy = language_remedy(summary.folders_without_language)
        console.print(
            f"not read, without a language: {remedy}", soft_wrap=True, markup=False, style="yellow"
        )
    console.print(
        f"wrote shards to {output}; details in summary.json", soft_wrap=True, markup=False
    )


def print_totals(console: Console, summaries: Sequence[Summary]) -> None:
    """Print the totals over several sources."""
    totals = [summary.totals() for summary in summaries]
    sums = {name: sum(each[name] for each in totals) for name in totals[0]}
    console.print(
        f"{len(summaries)} sources: {sums['documents_read']:,} documents read: "
        f"{sums['train_documents']:,} for training ({sums['train_tokens']:,} tokens), "
        f"{sums['heldout_documents']:,} held out",
        soft_wrap=True,
    )


def _add_row(table: WholeTable, key: str, language: LanguageSummary) -> None:
    table.add_row(
        key,
        f"{language.train_documents:,}",
        f"{language.heldout_documents:,}",
        f"{language.train_tokens:,}",
        f"{language.bytes_per_token:.2f}",
        f"{language.tokens_per_word:.2f}",
        f"{language.byte_fallback_share:.2%}",
        f"{sum(language.rejected.values()):,}",
    )


def _first_names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f", … {len(listed) - _MAX_NAMES} more" if len(listed) > _MAX_NAMES else ""
    return ", ".join(listed[:_MAX_NAMES]) + more


def ignored_files(found: Discovery) -> dict[str, list[str]]:
    """Return the ignored files by reason, in a fixed order."""
    return {reason: sorted(names) for reason, names in sorted(found.ignored.items())}
