"""The error of a run that lost more than its limits: what, where and why, in one screen."""

from __future__ import annotations

from collections.abc import Sequence

from mmbert.errors import TextError
from mmbert_prep.losses.limits import DocumentCounts, Excess, Losses
from mmbert_prep.losses.plan import PlannedInput
from mmbert_prep.readers.accounting import FileLoss
from mmbert_prep.settings import LossSettings

_MAX_NAMES = 8


def loss_error(
    excess: Excess,
    losses: Losses,
    planned: PlannedInput,
    settings: LossSettings,
    documents: DocumentCounts | None,
) -> TextError:
    """Return the error of a run that exceeds its limits."""
    so_far = "" if documents is not None else ", so far"
    lines = [f"the run loses more of its input than is allowed{so_far}; no language was written"]
    if losses.unread_bytes:
        lines.append(
            f"unread: {_bytes(losses.unread_bytes, planned.input_bytes)}; "
            f"allowed {settings.maximum_unread_fraction:.1%}"
        )
    if losses.unnamed_bytes:
        lines.append(
            f"without a language: {_bytes(losses.unnamed_bytes, planned.input_bytes)}; "
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
    files = sorted(losses.files.values(), key=lambda loss: (-loss.lost_bytes, loss.path))
    lines.append(f"files: {len(files):,} of {planned.files:,}, the first")
    lines += [f"  {_file(loss)}" for loss in files[:_MAX_NAMES]]
    return TextError("\n  ".join(lines), remedy=_remedy(excess, losses, documents))


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


def _remedy(excess: Excess, losses: Losses, documents: DocumentCounts | None) -> str:
    columns = next((loss.columns for loss in losses.files.values() if loss.columns), ())
    parts, options = [], []
    unnamed = excess.unnamed or excess.unnamed_documents
    if columns:
        parts.append(f"--text-column names the text's column (there: {', '.join(columns)})")
    if any(loss.problem for loss in losses.files.values() if loss.unread_bytes):
        parts.append("repair the files, or get them again")
    if unnamed:
        parts.append(
            "name the language of all with --language swh_Latn, its columns with "
            "--language-column, or folders by language keys (swh_Latn)"
        )
    if excess.unread or excess.languages:
        value = " (1 allows lost languages, too)" if excess.languages else ""
        options.append(f"--maximum-unread-fraction{value}")
    if excess.documents:
        options.append("--maximum-rejected-fraction")
    if unnamed:
        options.append("--maximum-without-language-fraction")
    if excess.folders:
        kinds = [
            (losses.folders_unread, "--maximum-unread-fraction 1"),
            (losses.folders_unnamed, "--maximum-without-language-fraction 1"),
        ]
        wanted = " and ".join(
            option for sizes, option in kinds if any(sizes.get(name) for name in excess.folders)
        )
        parts.append(f"leave a folder out that is to be lost, or allow it with {wanted}")
    if options:
        parts.append(f"allow more with {', '.join(options)}")
    return "; ".join(parts) + "; the run then goes on with what is read"
