"""Tables of the page and entries of its list of languages, as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.report.shards.contents import LanguageContents, ShardsContents
from mmbert.report.shards.identification import SUSPICIOUS_SHARE, Identification
from mmbert.report.shards.names import language_name, language_tag, script_name
from mmbert.report.shards.samples import (
    SAMPLED_DOCUMENTS,
    SHOWN_CHARACTERS,
    SampledDocument,
    Sampler,
    visible,
)
from mmbert.report.tables import LONG, NONE, Table


@dataclass(frozen=True)
class ListedLanguage:
    """A language of the list that folds out."""

    key: str
    """As written in the folder's name, with its source if there are several."""
    name: str
    search: str
    """What the search box looks in, in lower case."""
    tag: str
    """Value of `lang`."""
    cells: Sequence[str]
    facts: Sequence[tuple[str, str]]
    documents: Sequence[SampledDocument]


LISTED_COLUMNS = ("documents", "tokens", "bytes", "byte fallback", "rejected")


def sources_table(contents: ShardsContents) -> Table:
    """Return the totals of each source and of all."""
    groups = {source: [n for n in contents.languages if n.source == source]
              for source in contents.sources}  # fmt: skip
    if len(groups) > 1:
        groups["all"] = list(contents.languages)
    rows = [
        [
            name,
            f"{len({n.language for n in found if n.component is not None}):,}",
            *(
                f"{sum(getattr(n, key) for n in found):,}"
                for key in (
                    *("read", "documents", "heldout", "rejected_documents"),
                    *("tokens", "bytes"),
                )
            ),
        ]
        for name, found in groups.items()
    ]
    headings = (
        *("source", "languages", "documents read", "in training", "held out", "rejected"),
        *("training tokens", "bytes"),
    )
    return Table("", headings, rows)


def scripts_table(contents: ShardsContents) -> Table:
    """Return languages, documents, tokens and bytes of each script."""
    groups: dict[str, list[LanguageContents]] = {}
    for language in contents.languages:
        if language.component is not None:
            groups.setdefault(language.script, []).append(language)
    rows = [
        [
            f"{script_name(script)} ({script})" if script else "none",
            f"{len({n.language for n in found}):,}",
            f"{sum(n.documents for n in found):,}",
            f"{sum(n.tokens for n in found):,}",
            f"{sum(n.bytes for n in found):,}",
            _ratio(sum(n.bytes for n in found), sum(n.tokens for n in found)),
        ]
        for script, found in sorted(
            groups.items(), key=lambda item: (-sum(n.tokens for n in item[1]), item[0])
        )
    ]
    headings = ("script", "languages", "documents", "tokens", "bytes", "bytes per token")
    return Table(f"{len(rows)} scripts", headings, rows, folded=len(rows) > LONG)


def rejected_table(contents: ShardsContents) -> Table:
    """Return the rejected documents by reason, with the languages that lost most to it."""
    rows = []
    for reason, count in contents.rejected().most_common():
        by_language = sorted(
            (n for n in contents.languages if n.rejected.get(reason)),
            key=lambda n: (-n.rejected[reason], n.language, n.source),
        )
        most = ", ".join(f"{n.language} {n.rejected[reason]:,}" for n in by_language[:3])
        rows.append([reason, most, f"{count:,}", f"{len(by_language):,}"])
    headings = ("reason", "most in", "documents", "languages")
    return Table("By reason", headings, rows, words=2)


def damaged_table(contents: ShardsContents) -> Table | None:
    """Return the files that were read in part, or None."""
    rows = [[source, name] for source, names in contents.damaged_files.items() for name in names]
    if not rows:
        return None
    title = "Damaged files, read in part"
    return Table(title, ("source", "file"), rows, words=2, folded=len(rows) > LONG)


def identification_tables(found: Identification) -> list[Table]:
    """Return the suspicious languages, all that were checked, and those that were not."""
    headings = ("language", "most frequent other", "documents", "same language")
    rows = [
        [
            _full_name(language.language, language.source),
            language.most_frequent_other or NONE,
            f"{language.documents}",
            f"{language.share:.0%}",
        ]
        for language in found.languages
    ]
    suspicious = rows[: len(found.suspicious)]
    tables = [
        Table(
            "Suspicious", headings, suspicious, words=2,
            text=f"Less than {SUSPICIOUS_SHARE:.0%} of the sampled documents are identified as the "
            "language or as another of its macrolanguage."
            if suspicious else "None.",
        ),
        Table(f"{len(rows):,} languages checked", headings, rows, words=2, folded=True),
    ]  # fmt: skip
    for title, names in (
        ("not known to the identifier, and not checked", found.not_checked),
        ("without enough letters in the sample", found.too_short),
    ):
        if names:
            cells = [[name] for name in names]
            heading = ("source/language",)
            tables.append(Table(f"{len(names):,} {title}", heading, cells, folded=True))
    return tables


def listed_languages(contents: ShardsContents, sampler: Sampler) -> list[ListedLanguage]:
    """Return all languages with their figures and sampled documents."""
    return [
        _listed(language, sampler, several=len(contents.sources) > 1)
        for language in contents.languages
    ]


def _listed(language: LanguageContents, sampler: Sampler, *, several: bool) -> ListedLanguage:
    figures, lengths = language.figures, language.lengths
    name = language_name(language.language)
    script = script_name(language.script)
    facts = [
        ("script", script),
        ("documents read", f"{language.read:,}"),
        ("held out", f"{language.heldout:,}"),
        ("bytes per token", _ratio(language.bytes, language.tokens)),
        ("tokens per word", _optional(figures.tokens_per_word, ".2f")),
        ("characters per token", _optional(figures.characters_per_token, ".2f")),
        ("unknown tokens", _optional(figures.unknown_share, ".2%")),
        ("changed by cleaning", f"{figures.cleaned:,}"),
    ]
    if lengths is not None and lengths.documents:
        tokens = ", ".join(f"{lengths.quantile(at):,}" for at in (0.05, 0.5, 0.95))
        facts.append(
            ("tokens of a document (5%, median, 95%, longest)", f"{tokens}, {lengths.maximum:,}")
        )
    facts += [(f"rejected: {reason}", f"{n:,}") for reason, n in language.rejected.items() if n]
    documents = []
    if language.component is not None:
        documents = sampler.sample(language.component, SAMPLED_DOCUMENTS, SHOWN_CHARACTERS)
    key = f"{language.source}/{language.language}" if several else language.language
    return ListedLanguage(
        key=key,
        name=name,
        search=f"{key} {name} {script}".lower(),
        tag=language_tag(language.language),
        cells=(
            f"{language.documents:,}",
            f"{language.tokens:,}",
            f"{language.bytes:,}",
            _optional(figures.byte_fallback_share, ".2%"),
            f"{language.rejected_documents:,}",
        ),
        facts=[(title, value) for title, value in facts if value not in ("", NONE, "0")],
        documents=[
            SampledDocument(one.number, one.tokens, visible(one.text), one.is_whole)
            for one in documents
        ],
    )


def _full_name(language: str, source: str) -> str:
    name = language_name(language)
    return f"{source}/{language}{f' ({name})' if name else ''}"


def _ratio(size: int, tokens: int) -> str:
    return f"{size / tokens:.2f}" if tokens else NONE


def _optional(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
