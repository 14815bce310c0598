"""Text sample of all languages, for training or checking a tokenizer.

The sample of a work unit is its documents with the smallest content hashes, so it depends only on
the text. Held-out documents are excluded.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmbert.files import atomic_write
from mmbert_prep.executor.progress import Meter
from mmbert_prep.executor.work_units import WorkPlan, WorkUnit
from mmbert_prep.filters.cleaning import Cleaner, content_hashes, heldout_mask
from mmbert_prep.losses.ledger import SurveyLedger
from mmbert_prep.readers import Rejected, read_range
from mmbert_prep.readers.accounting import FileLoss, RangeAccount
from mmbert_prep.settings import SamplingSettings

_MAX_SAMPLE_CHARACTERS = 20_000  # per document
_MIN_READ_BYTES = 4_000_000  # minimum bytes read per file range
_MIN_KEPT_CHARACTERS = 4_000
_OVERSAMPLING = 2  # sampled bytes per byte used; allows for an uneven distribution of languages


class TokenizerSampler:
    """Samples work units, with language budgets from file sizes."""

    def __init__(self, plan: WorkPlan, settings: SamplingSettings, ledger: SurveyLedger) -> None:
        self._settings, self._ledger = settings, ledger
        self._sizes: dict[str | None, int] = defaultdict(int)
        for unit in plan.units:
            for file_range in unit.file_ranges:
                self._sizes[file_range.language] += file_range.input_bytes
        self._budgets = temperature_budgets(
            {str(language): size for language, size in self._sizes.items()},
            settings.tokenizer_sample_bytes,
            settings.tokenizer_temperature if len(self._sizes) > 1 else 1.0,
        )

    def sample_unit(self, unit: WorkUnit, cleaner: Cleaner, path: Path, meter: Meter) -> None:
        """Write the sample of a work unit to `path`.

        Format: JSON lines; first the bytes per language, then [language, hash, text] per document.
        Raises TextError if what was read already loses more than the limits allow.
        """
        losses: list[FileLoss] = []
        kept: dict[str, _SmallestHashes] = {}
        read: dict[str, int] = defaultdict(int)
        sizes: dict[str | None, int] = defaultdict(int)
        for file_range in unit.file_ranges:
            sizes[file_range.language] += file_range.input_bytes
        for file_range in unit.file_ranges:
            fraction = sizes[file_range.language] / max(1, self._sizes[file_range.language])
            budget = _MIN_KEPT_CHARACTERS + int(
                _OVERSAMPLING * fraction * self._budgets[str(file_range.language)]
            )
            # Rows may be sorted by language: without a language in the path, read everything.
            maximum = max(_MIN_READ_BYTES, 8 * budget) if file_range.language else None
            range_read = 0
            complete = True
            account = RangeAccount(file_range)
            meter.reading(file_range.path)
            for document in read_range(file_range, self._settings):
                if document.tokens is not None:
                    account.keep(document)
                    continue  # not text
                clean = cleaner.clean(document)
                if isinstance(clean, Rejected):
                    account.reject(document, clean)
                    continue
                assert document.language is not None, "documents without a language are rejected"
                account.keep(document)
                range_read += len(clean.data)
                read[document.language] += len(clean.data)
                hashes = content_hashes([clean.data])
                if heldout_mask(hashes, self._settings.heldout_share)[0]:
                    continue
                smallest = kept.setdefault(document.language, _SmallestHashes(budget))
                smallest.add(int(hashes[0, 1]), clean.text[:_MAX_SAMPLE_CHARACTERS])
                if maximum is not None and range_read > maximum:
                    # Count the unread rest by its size on disk.
                    read[document.language] += max(0, file_range.input_bytes - range_read)
                    complete = False
                    break
            loss = account.finish(complete=complete).loss
            if loss is not None:
                losses.append(loss)
            meter.add(progress=file_range.input_bytes)
        self._ledger.record(unit.key, losses)
        with atomic_write(path) as file:
            file.write((json.dumps(read) + "\n").encode())
            for language in sorted(kept):
                for hash_, text in kept[language].items():
                    line = json.dumps([language, hash_, text], ensure_ascii=False)
                    file.write((line + "\n").encode())
        self._ledger.check_if_needed(unit.key)


class _SmallestHashes:
    """Texts with the smallest hashes, up to a number of characters."""

    def __init__(self, budget: int) -> None:
        self._budget, self._size = budget, 0
        self._heap: list[tuple[int, str]] = []  # largest hash first

    def add(self, hash_: int, text: str) -> None:
        heapq.heappush(self._heap, (-hash_, text))
        self._size += len(text)
        while len(self._heap) > 1 and self._size - len(self._heap[0][1]) >= self._budget:
            self._size -= len(heapq.heappop(self._heap)[1])

    def items(self) -> list[tuple[int, str]]:
        return sorted((-negative, text) for negative, text in self._heap)


def read_samples(paths: list[Path], settings: SamplingSettings) -> dict[str, list[str]]:
    """Read the samples of all work units; return language -> texts, balanced by temperature."""
    sizes: dict[str, int] = defaultdict(int)
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for path in paths:
        for number, line in enumerate(_json_lines(path)):
            if number == 0:
                for language, size in line.items():
                    sizes[language] += size
            else:
                found[line[0]][line[1]] = line[2]  # removes duplicates
    available = {
        language: sum(len(text.encode()) for text in texts.values())
        for language, texts in found.items()
    }
    budgets = temperature_budgets(
        {language: sizes[language] for language in found},
        settings.tokenizer_sample_bytes,
        settings.tokenizer_temperature,
        available,
    )
    samples: dict[str, list[str]] = {}
    for language in sorted(found):
        chosen: list[str] = []
        size = 0
        for _, text in sorted(found[language].items()):
            if chosen and size >= budgets[language]:
                break
            chosen.append(text)
            size += len(text.encode())
        samples[language] = chosen
    return samples


def _json_lines(path: Path) -> Iterator[Any]:
    with open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


def temperature_budgets(
    sizes: dict[str, int],
    total: int,
    temperature: float,
    limits: dict[str, int] | None = None,
) -> dict[str, int]:
    """Divide `total` in proportion to size ** temperature.

    No name gets more than its limit (by default its size); the excess goes to the others.
    """
    limits = limits or sizes
    budgets = dict.fromkeys(sizes, 0)
    remaining_names = sorted(name for name in sizes if sizes[name] > 0)
    remaining = float(total)
    while remaining_names and remaining >= 1:
        weights = {name: sizes[name] ** temperature for name in remaining_names}
        scale = remaining / sum(weights.values())
        full = [name for name in remaining_names if weights[name] * scale >= limits[name]]
        if not full:
            for name in remaining_names:
                budgets[name] = int(weights[name] * scale)
            break
        for name in full:
            budgets[name] = limits[name]
            remaining -= limits[name]
        remaining_names = [name for name in remaining_names if name not in set(full)]
    return budgets
