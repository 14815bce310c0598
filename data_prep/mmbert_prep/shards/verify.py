"""Verifies shards against the source text, in both directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from rich.console import Console

from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import Manifest, read_manifest, verify_files
from mmbert.errors import ArgumentError, ShardsError, UserError
from mmbert_prep.executor.storage import read_json
from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.executor.workspace import SUMMARY_NAME
from mmbert_prep.filters.cleaning import Cleaner, CleanText, content_hashes, heldout_mask
from mmbert_prep.readers import Document, RejectReason, read_range
from mmbert_prep.readers.discovery import discover
from mmbert_prep.settings import PrepSettings, SelectionSettings
from mmbert_prep.shards.encode import UnitEncoder
from mmbert_prep.shards.summary import Summary
from mmbert_prep.tokenization.encoders import Encoder, open_encoder
from mmbert_prep.tokenization.text_splitter import SPACE

_MAX_REPORTED = 5
# Documents that are not in the shards because an earlier source has them.
_ELSEWHERE = RejectReason.DUPLICATE_OF_SOURCE


@dataclass
class Verification:
    """Result for one language; `errors` is empty if its shards are correct."""

    documents: int = 0
    """Number of documents in the shards that were found in the source."""
    errors: list[str] = field(default_factory=list)

    def add_error(self, text: str) -> None:
        """Record an error. After the first five, record only that there are more."""
        if len(self.errors) < _MAX_REPORTED:
            self.errors.append(text)
        elif len(self.errors) == _MAX_REPORTED:
            self.errors.append("… and more")


def verify_source(
    source_folder: Path, input_: str, advance: Callable[[int], None] = lambda size: None
) -> dict[str, Verification]:
    """Compare SHARDS/<source> with its original input, `input_`.

    For each language: checksums match; every stored document decodes to a document of the source;
    every kept document of the source is stored exactly once (or as often as it occurs, if
    duplicates were kept), in the split given by its hash; no more are missing than were dropped as
    near-duplicates; the counts of the manifest add up to the
    documents read. `advance` is called with the number of input bytes read. Takes about 100 bytes
    of memory per document. Raises UserError if the source is not finished or the input does not
    exist.
    """
    path = source_folder / SUMMARY_NAME
    if not path.exists():
        raise ShardsError(
            f"{path} does not exist: the preprocessing never finished",
            remedy="run the preprocessing command again to continue it",
        )
    summary = Summary.model_validate(read_json(path))
    settings = PrepSettings.model_validate(
        {**summary.settings, "input": input_, "output": source_folder.parent}
    )
    encoder = open_encoder(source_folder.parent / "tokenizer")
    expected = _source_hashes(settings, encoder, advance)
    found: dict[str, Verification] = {}
    for language in sorted(set(summary.languages) | set(expected)):
        check = found[language] = Verification()
        if language not in summary.languages:
            elsewhere = summary.without_text.get(language, {}).get(_ELSEWHERE, 0)
            if elsewhere >= len(expected[language]):
                continue
            check.add_error(
                f"{expected[language].total()} documents of the source are missing from the shards"
            )
            continue
        manifest = read_manifest(source_folder / language)
        try:
            verify_files(source_folder / language, manifest)
        except UserError as error:
            check.add_error(error.message)
            continue
        hashes = expected.get(language, Counter())
        _compare(source_folder / language, manifest, hashes, settings, encoder, check)
    return found


def verify_against_text(shards: Path, text: str, console: Console) -> None:
    """Compare the only source in `shards` with its original input, `text`.

    Raises UserError if languages differ, or unless there is exactly one finished source.
    """
    sources = sorted(path.parent for path in shards.glob(f"*/{SUMMARY_NAME}"))
    if len(sources) != 1:
        raise ArgumentError(
            f"{shards} has {len(sources)} finished sources",
            remedy="--input needs shards with exactly one source",
        )
    found = verify_source(sources[0], text)
    for language, verification in found.items():
        for error in verification.errors:
            console.print(f"{language}: {error}", markup=False, soft_wrap=True)
    bad = [language for language, verification in found.items() if verification.errors]
    if bad:
        raise ShardsError(
            f"{len(bad)} languages differ from {text}: {', '.join(bad[:10])}",
            remedy="check that this is the input of these shards; if so, preprocess them again",
        )
    documents = sum(verification.documents for verification in found.values())
    console.print(
        f"{documents:,} documents in {len(found)} languages decode to those of {text}",
        markup=False,
        soft_wrap=True,
    )


def _key(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


def _text_key(text: str) -> bytes:
    # U+2581 and the space are equal after decoding.
    return _key(b"text" + text.replace(SPACE, " ").encode())


def _token_key(tokens: np.ndarray) -> bytes:
    return _key(b"tokens" + tokens.astype("<i4").tobytes())


def _source_hashes(
    settings: PrepSettings, encoder: Encoder, advance: Callable[[int], None]
) -> dict[str, Counter[bytes]]:
    cleaner = Cleaner(settings)
    found: dict[str, Counter[bytes]] = {}
    for unit in plan_work_units(discover(settings), settings).units:
        for file_range in unit.file_ranges:
            for document in read_range(file_range, settings):
                key = _document_key(document, cleaner, encoder)
                if key is not None and document.language is not None:
                    found.setdefault(document.language, Counter())[key] += 1
            advance(file_range.input_bytes)
    return found


def _document_key(document: Document, cleaner: Cleaner, encoder: Encoder) -> bytes | None:
    if document.tokens is not None:
        tokens = UnitEncoder.strip_special_tokens(document.tokens, encoder.description.special_ids)
        return _token_key(tokens) if len(tokens) else None
    clean = cleaner.clean(document)
    return _text_key(clean.text) if isinstance(clean, CleanText) else None


def _compare(
    folder: Path,
    manifest: Manifest,
    expected: Counter[bytes],
    settings: SelectionSettings,
    encoder: Encoder,
    check: Verification,
) -> None:
    stored: Counter[bytes] = Counter()
    for split in ("train", "heldout"):
        for shard in getattr(manifest, split).shards:
            dataset = IndexedDataset(folder / shard.name)
            for number in range(len(dataset)):
                tokens = dataset.document(number)
                text = encoder.decode(tokens)
                where = f"{shard.name}, document {number}"
                by_text, by_tokens = _text_key(text), _token_key(tokens)
                key = by_text if by_text in expected else by_tokens
                if key not in expected:
                    check.add_error(f"{where} is not in the source: {text[:80]!r}")
                    continue
                stored[key] += 1
                check.documents += 1
                if key == by_text and manifest.heldout.documents:
                    _check_split(text, split, settings.heldout_share, where, check)
    copies = 1 if settings.deduplicate else None
    for key, count in stored.items():
        if count > (copies or expected[key]):
            check.add_error(f"a document is stored {count} times")
    if settings.maximum_tokens_per_language is None:
        missing = sum(1 for key in expected if key not in stored)
        missing -= manifest.rejected.get(_ELSEWHERE, 0)
        missing -= manifest.rejected.get(RejectReason.NEAR_DUPLICATE, 0)
        if missing > 0:
            check.add_error(f"{missing} documents of the source are missing from the shards")
    kept = manifest.train.documents + manifest.heldout.documents
    if manifest.documents_read != kept + sum(manifest.rejected.values()):
        check.add_error("the counts of the manifest do not add up to the documents read")


def _check_split(
    text: str, split: str, heldout_share: float, where: str, check: Verification
) -> None:
    if SPACE in text:
        return  # the original text may have had this character, and a different hash
    held = bool(heldout_mask(content_hashes([text.encode()]), heldout_share)[0])
    if held != (split == "heldout"):
        check.add_error(f"{where} is in the wrong split")
