"""Views of shards: languages, tokens, rejected documents, epochs under a recipe, and text."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from mmbert.command_line.tables import WholeTable
from mmbert.data.sampling.mixture_weights import component_sizes, phase_mixtures
from mmbert.data.shards.corpus import open_corpus
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import MANIFEST_NAME, Manifest, Split, read_manifest, verify_files
from mmbert.data.shards.tokenizer_description import DESCRIPTION_NAME, read_tokenizer_description
from mmbert.errors import ArgumentError, ShardsError
from mmbert.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class LanguageFolder:
    """Folder and manifest of a finished language of one source."""

    path: Path
    manifest: Manifest


def is_shards_folder(path: Path) -> bool:
    """Return whether `path` is an output folder of preprocessing."""
    return (path / "tokenizer" / DESCRIPTION_NAME).is_file()


def language_folders(shards: Path) -> list[LanguageFolder]:
    """Return all finished languages, sorted by source and language."""
    found = [
        LanguageFolder(path.parent, read_manifest(path.parent))
        for path in sorted(shards.glob(f"*/*/{MANIFEST_NAME}"))
    ]
    if not found:
        raise ShardsError(
            f"{shards} contains no finished language",
            remedy="run the preprocessing command again to continue it",
        )
    return found


def render_shards(shards: Path, console: Console, recipe_file: str | Path | None = None) -> None:
    """Print a table of languages with totals and, with a recipe, the epochs in each phase."""
    description = read_tokenizer_description(shards / "tokenizer")
    folders = language_folders(shards)
    table = WholeTable("source", "language", box=None, pad_edge=False)
    for name in ("documents", "tokens", "held out", "bytes/token", "rejected"):
        table.add_column(name, justify="right")
    recipe = load_recipe(recipe_file) if recipe_file is not None else None
    epochs = _epochs(shards, recipe) if recipe else {}
    for phase in recipe.phases if recipe else ():
        table.add_column(f"epochs in {phase.name}", justify="right")
    rejected: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for folder in folders:
        manifest = folder.manifest
        rejected.update(manifest.rejected)
        train = manifest.train
        sums.update(
            documents=train.documents,
            tokens=train.tokens,
            bytes=train.bytes,
            heldout=manifest.heldout.documents,
            read=manifest.documents_read,
        )
        table.add_row(
            manifest.source,
            manifest.language,
            f"{train.documents:,}",
            f"{train.tokens:,}",
            f"{manifest.heldout.documents:,}" if manifest.heldout.documents else "none",
            f"{train.bytes / train.tokens:.2f}" if train.tokens else "-",
            f"{sum(manifest.rejected.values()):,}",
            *epochs.get((manifest.source, manifest.language), ()),
        )
    console.print(table)
    languages = {folder.manifest.language for folder in folders}
    per_token = sums["bytes"] / max(1, sums["tokens"])
    console.print(
        f"\n{len(languages)} languages, {sums['read']:,} documents read: "
        f"{sums['documents']:,} in training ({sums['tokens']:,} tokens, "
        f"{per_token:.2f} bytes per token), {sums['heldout']:,} held out, "
        f"{sum(rejected.values()):,} rejected"
    )
    for reason, count in rejected.most_common():
        console.print(f"  rejected as {reason}: {count:,}", markup=False, soft_wrap=True)
    console.print(
        f"tokenizer: {description.kind}, {description.vocabulary_size:,} ids, "
        f"fingerprint {description.fingerprint[:12]}"
    )


def _epochs(shards: Path, recipe: Recipe) -> dict[tuple[str, str], list[str]]:
    """Return the formatted epochs in each phase of `recipe`, by (source, language)."""
    sizes = component_sizes(open_corpus(shards), recipe)
    mixtures = phase_mixtures(sizes, recipe)
    return {
        (size.source, size.language): [
            f"{mixture.epochs[number]:.2f}" if mixture.epochs[number] else "-"
            for mixture in mixtures
        ]
        for number, size in enumerate(sizes)
    }


def verify_shards(shards: Path, console: Console) -> None:
    """Verify the checksums of all files; a UserError names the first corrupted file."""
    folders = language_folders(shards)
    for folder in track(folders, description="verifying", console=console, transient=True):
        verify_files(folder.path, folder.manifest)
    console.print(
        f"{shards}: all files of {len(folders)} languages match their checksums",
        markup=False,
        soft_wrap=True,
    )


def decode_document(shards: Path, language: str, number: int, *, held_out: bool = False) -> str:
    """Decode document `number` of `language`, given as 'language' or 'source/language'."""
    folders = [
        folder
        for folder in language_folders(shards)
        if language in (folder.manifest.language, f"{folder.path.parent.name}/{folder.path.name}")
    ]
    if len(folders) != 1:
        known = sorted({folder.manifest.language for folder in language_folders(shards)})
        problem = "is in several sources" if folders else "not found in these shards"
        remedy = "name it as source/language" if folders else f"languages: {', '.join(known[:20])}…"
        raise ArgumentError(f"language {language} {problem}", remedy=remedy)
    manifest = folders[0].manifest
    split: Split = manifest.heldout if held_out else manifest.train
    if not 0 <= number < split.documents:
        raise ArgumentError(
            f"{language} has no document {number}",
            remedy=f"give a number below {split.documents:,}",
        )
    for shard in split.shards:
        if number < shard.documents:
            tokens = IndexedDataset(folders[0].path / shard.name).document(number)
            return decode(shards, tokens.tolist())
        number -= shard.documents
    raise AssertionError("document counts are verified when the manifest is read")


def decode(shards: Path, token_ids: list[int]) -> str:
    """Decode `token_ids` with the tokenizer of the shards, including special tokens."""
    tokenizer = Tokenizer.from_str(
        (shards / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
    )
    return str(tokenizer.decode(token_ids, skip_special_tokens=False))
