"""Sample text of every language before there is a tokenizer: to train one on and to check it with.

A unit's sample is what has the smallest content hashes, so it depends on the text alone. Held-out
documents are never in it.
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
from mmbert_prep.filters.cleaning import Cleaner, CleanText, content_hashes, heldout_mask
from mmbert_prep.readers import read_range
from mmbert_prep.settings import PrepSettings

_MAX_SAMPLE_CHARACTERS = 20_000  # characters of one document
_MIN_READ_BYTES = 4_000_000  # bytes of a unit of one language that are read at least
_MIN_KEPT_CHARACTERS = 4_000
_OVERSAMPLING = 2  # sampled for each byte that will be wanted, so that languages can share unevenly


class TokenizerSampler:
    """What is to be sampled from each unit: decided from the sizes of files alone."""

    def __init__(self, plan: WorkPlan, settings: PrepSettings) -> None:
        self._settings = settings
        self._weights: dict[str | None, int] = defaultdict(int)
        for unit in plan.units:
            for file_range in unit.file_ranges:
                self._weights[file_range.language] += file_range.input_bytes
        self._wanted = temperature_budgets(
            {str(language): weight for language, weight in self._weights.items()},
            settings.tokenizer_sample_bytes,
            settings.tokenizer_temperature if len(self._weights) > 1 else 1.0,
        )

    def sample_unit(self, unit: WorkUnit, cleaner: Cleaner, path: Path, meter: Meter) -> None:
        """Write the unit's sample to `path`: JSON lines, the first one with bytes per language."""
        kept: dict[str, _SmallestHashes] = {}
        read: dict[str, int] = defaultdict(int)
        weights: dict[str | None, int] = defaultdict(int)
        for file_range in unit.file_ranges:
            weights[file_range.language] += file_range.input_bytes
        for file_range in unit.file_ranges:
            share = weights[file_range.language] / max(1, self._weights[file_range.language])
            budget = _MIN_KEPT_CHARACTERS + int(
                _OVERSAMPLING * share * self._wanted[str(file_range.language)]
            )
            # Columns may be sorted by language: such a file is read to its end.
            most = max(_MIN_READ_BYTES, 8 * budget) if file_range.language else None
            range_read = 0
            meter.reading(file_range.path)
            for document in read_range(file_range, self._settings):
                if document.tokens is not None:
                    continue  # says nothing of how text looks
                clean = cleaner.clean(document)
                if not isinstance(clean, CleanText) or document.language is None:
                    continue
                range_read += len(clean.data)
                read[document.language] += len(clean.data)
                hashes = content_hashes([clean.data])
                if heldout_mask(hashes, self._settings.heldout_share)[0]:
                    continue
                smallest = kept.setdefault(document.language, _SmallestHashes(budget))
                smallest.add(int(hashes[0, 1]), clean.text[:_MAX_SAMPLE_CHARACTERS])
                if most is not None and range_read > most:
                    # What was not read counts by its size on disk.
                    read[document.language] += max(0, file_range.input_bytes - range_read)
                    break
            meter.add(weight=file_range.input_bytes)
        with atomic_write(path) as file:
            file.write((json.dumps(read) + "\n").encode())
            for language in sorted(kept):
                for priority, text in kept[language].items():
                    line = json.dumps([language, priority, text], ensure_ascii=False)
                    file.write((line + "\n").encode())


class _SmallestHashes:
    """The texts with the smallest priorities that fit into a number of characters."""

    def __init__(self, budget: int) -> None:
        self._budget, self._size = budget, 0
        self._heap: list[tuple[int, str]] = []  # largest priority first

    def add(self, priority: int, text: str) -> None:
        heapq.heappush(self._heap, (-priority, text))
        self._size += len(text)
        while len(self._heap) > 1 and self._size - len(self._heap[0][1]) >= self._budget:
            self._size -= len(heapq.heappop(self._heap)[1])

    def items(self) -> list[tuple[int, str]]:
        return sorted((-negative, text) for negative, text in self._heap)


def read_samples(paths: list[Path], settings: PrepSettings) -> dict[str, list[str]]:
    """The temperature-balanced sample: language -> texts, from all units' samples."""
    sizes: dict[str, int] = defaultdict(int)
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for path in paths:
        for number, line in enumerate(_json_lines(path)):
            if number == 0:
                for language, size in line.items():
                    sizes[language] += size
            else:
                found[line[0]][line[1]] = line[2]  # the same text twice counts once
    available = {
        language: sum(len(text.encode()) for text in texts.values())
        for language, texts in found.items()
    }
    wanted = temperature_budgets(
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
            if chosen and size >= wanted[language]:
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
    most: dict[str, int] | None = None,
) -> dict[str, int]:
    """Divide `total` in proportion to size ** temperature, nobody getting more than `most` (or its
    size); what that frees goes to the others."""
    limits = most or sizes
    shares = dict.fromkeys(sizes, 0)
    open_names = sorted(name for name in sizes if sizes[name] > 0)
    remaining = float(total)
    while open_names and remaining >= 1:
        weights = {name: sizes[name] ** temperature for name in open_names}
        scale = remaining / sum(weights.values())
        full = [name for name in open_names if weights[name] * scale >= limits[name]]
        if not full:
            for name in open_names:
                shares[name] = int(weights[name] * scale)
            break
        for name in full:
            shares[name] = limits[name]
            remaining -= limits[name]
        open_names = [name for name in open_names if name not in set(full)]
    return shares
