"""The error of a run that lost more than its limits: what, where and why, in one screen."""

from __future__ import annotations

from collections.abc import Sequence

from mmbert.errors import TextError
from mmbert_prep.languages.report import NamedLanguage, add_name, describe_names
from mmbert_prep.losses.limits import DocumentCounts, Excess, Losses
from mmbert_prep.losses.plan import PlannedInput
from mmbert_prep.readers.accounting import FileLoss
from mmbert_prep.readers.language_columns import name_in_column
from mmbert_prep.readers.rejection import ENCODING_REMEDY, RejectReason
from mmbert_prep.settings import LossSettings

_MAX_NAMES = 8
_MAX_FILES = 5


def loss_error(
    excess: Excess,
    losses: Losses,
    planned: PlannedInput,
    settings: LossSettings,
    documents: DocumentCounts | None,
) -> TextError:
    """Return the error of a run that exceeds its limits."""
    unnamed = (
        excess.unnamed
        or excess.unnamed_documents
        or any(losses.folders_unnamed.get(name) for name in excess.folders)
    )
    already, least = ("", "") if documents is not None else ("already ", "at least ")
    lines = [f"the run {already}loses more of its input than is allowed; no language was written"]
    if losses.unread_bytes:
        lines.append(
            f"unread: {least}{_bytes(losses.unread_bytes, planned.input_bytes)}; "
            f"allowed {settings.maximum_unread_fraction:.1%}"
        )
    if unnamed and losses.unnamed_bytes:
        lines.append(
            f"without a language: {least}{_bytes(losses.unnamed_bytes, planned.input_bytes)}; "
            f"allowed {settings.maximum_without_language_fraction:.1%}"
        )
    if documents is not None:
        lines += _documents(documents, settings)
    if excess.languages:
        shares = [f"{key} {share:.1%}" for key, share in excess.languages.items()]
        lines.append(f"languages that lose over half of their bytes: {_first(shares)}")
    elif losses.unread_bytes:
        order = sorted(losses.languages.items(), key=lambda item: (-item[1], item[0]))
        sizes = [f"{key or '(unknown)'} {size:,} bytes" for key, size in order if size]
        lines.append(f"languages: {_first(sizes)}")
    if excess.folders:
        lines.append(f"folders that lose all: {_first(excess.folders)}")
    if losses.reasons:
        reasons = sorted(losses.reasons.items(), key=lambda item: (-item[1], item[0]))
        lines.append(f"documents by reason: {_first([f'{key} {n:,}' for key, n in reasons])}")
    names = _names(losses, planned) if unnamed else {}
    lines += describe_names(names)[:_MAX_FILES]
    files = [loss for loss in losses.files.values() if unnamed or loss.unread_bytes]
    total = planned.files + (len(planned.unnamed) if unnamed else 0)
    files.sort(key=lambda loss: (-loss.lost_bytes, loss.path))
    lines.append(f"files that lose some or all: {len(files):,} of {total:,}, the first")
    lines += [f"  {_file(loss)}" for loss in files[:_MAX_FILES]]
    return TextError("\n  ".join(lines), remedy=_remedy(excess, losses, bool(names)))


def _names(losses: Losses, planned: PlannedInput) -> dict[str, NamedLanguage]:
    """Return the names in paths and columns that are no languages, and why."""
    names = dict(planned.names)
    for written, documents in losses.names.items():
        add_name(names, written, name_in_column(written, documents, planned.language_map))
    return names


def _bytes(size: int, of: int) -> str:
    return f"{size / max(1, of):.1%} of the input ({size:,} of {of:,} bytes)"


def _documents(documents: DocumentCounts, settings: LossSettings) -> list[str]:
    counted = [
        ("damaged", documents.damaged, settings.maximum_rejected_fraction),
        ("without a language", documents.unnamed, settings.maximum_without_language_fraction),
    ]
    return [
        f"documents {name}: {count:,} of {documents.read:,} "
        f"({count / max(1, documents.read):.1%}); allowed {allowed:.1%}"
        for name, count, allowed in counted
        if count
    ]


def _file(loss: FileLoss) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(loss.reasons.items()))
    why = loss.problem or reasons
    if loss.problem is None and loss.columns:
        why += f" (columns there: {', '.join(loss.columns)})"
    return f"{loss.path}: {loss.lost_bytes:,} bytes: {why}"


def _first(names: Sequence[str]) -> str:
    more = f", … {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _remedy(excess: Excess, losses: Losses, named: bool) -> str:
    columns = next((loss.columns for loss in losses.files.values() if loss.columns), ())
    folders = excess.folders
    unread_folder = any(losses.folders_unread.get(name) for name in folders)
    unnamed_folder = any(losses.folders_unnamed.get(name) for name in folders)
    parts, options = [], []
    if columns:
        parts.append(f"name the text's column with --text-column (there: {', '.join(columns)})")
    damaged = [loss for loss in losses.files.values() if loss.problem and loss.unread_bytes]
    if any(not loss.columns for loss in damaged):
        parts.append("repair these files or get them again")
    if RejectReason.INVALID_UTF8 in losses.reasons:
        parts.append(ENCODING_REMEDY)
    if named:
        parts.append("give these names a language with --language-map")
    if excess.unnamed or excess.unnamed_documents or unnamed_folder:
        parts.append(
            "name languages by folders (swh_Latn), or by columns with --language-column, or read "
            "text of one language in a run of its own with --language and --source"
        )
    if excess.unread or excess.languages or unread_folder:
        # A lost language or folder is not a matter of the total.
        options.append("--maximum-unread-fraction" + " 1" * bool(excess.languages or folders))
    if excess.documents:
        options.append("--maximum-rejected-fraction")
    if excess.unnamed or excess.unnamed_documents or unnamed_folder:
        options.append("--maximum-without-language-fraction" + " 1" * unnamed_folder)
    if folders:
        parts.append("leave these folders out of the input")
    fixes = "; ".join(parts) or "fix these documents"
    return f"{fixes}; or allow it with {', '.join(options)}: what was read is kept"
