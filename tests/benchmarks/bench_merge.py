"""Merging one language by its number of documents: `python -m tests.benchmarks.bench_merge`.

Made intermediate shards of documents of two tokens, a twentieth of them duplicates, with a piece
index of an entry each (more than text has). Prints processor time and the peak of a process'
own memory (RssAnon, sampled; pages of mapped files are the system's to take back), above that of
the imports. The largest, of which documents are selected only, has several passes over its hashes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from mmbert.data.shards.continuation_index import count_parts
from mmbert.data.shards.tokenizer_description import SpecialIds, TokenizerDescription
from mmbert_prep.executor.progress import Meter
from mmbert_prep.executor.workspace import LanguagePaths
from mmbert_prep.settings import SelectionSettings
from mmbert_prep.shards.deduplicate_and_split import LanguageSections, select
from mmbert_prep.shards.intermediate import DOCUMENT_DTYPE, IntermediateWriter
from mmbert_prep.shards.merge import StagedLanguage, finish_language, write_shard

DOCUMENTS = (1_000_000, 4_000_000, 16_000_000, 64_000_000)
LARGEST_WRITTEN = 16_000_000
TOKENS, CONTEXT = 2, 3
AT_ONCE = 100_000


def own_memory() -> float:
    """Return this process' anonymous memory in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no RssAnon")


class Peak:
    """The largest anonymous memory and the processor time of a block."""

    def __enter__(self) -> Peak:
        self.before, self.peak = own_memory(), 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        self._begin = time.process_time()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, own_memory() - self.before)

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._begin
        self._done.set()
        self._thread.join()

    def __str__(self) -> str:
        return f"{self.peak:.0f} MB, {self.seconds:.1f} s"


def write_units(folder: Path, count: int) -> LanguageSections:
    """Write the intermediate shards of a language."""
    random = np.random.default_rng(0)
    sections = []
    per_unit = 2_000_000
    for first in range(0, count, per_unit):
        key = f"unit-{first}"
        writer = IntermediateWriter(folder, key, np.dtype(np.uint16))
        for start in range(first, min(first + per_unit, count), AT_ONCE):
            size = min(AT_ONCE, count - start)
            documents = np.zeros(size, dtype=DOCUMENT_DTYPE)
            documents["high"] = random.integers(0, 1 << 63, size, dtype=np.uint64)
            documents["low"] = random.integers(0, 1 << 63, size, dtype=np.uint64)
            documents[size - size // 20 :] = documents[: size // 20]
            documents["tokens"], documents["bytes"] = TOKENS, TOKENS
            writer.add("eng_Latn", np.full(TOKENS * size, 7, dtype=np.uint16), documents)
        sections += [(key, section) for section in writer.finish().sections]
    return LanguageSections("eng_Latn", tuple(sections))


def child(folder: Path, count: int) -> None:
    """Measure a language of `count` documents."""
    units = folder / "units"
    units.mkdir()
    language = write_units(units, count)
    settings = SelectionSettings(shard_tokens=1 << 20, heldout_share=0.01)
    with Peak() as selecting:
        selection = select(language, units, settings)
    cells = [f"{count:,}", str(selecting)]
    if count <= LARGEST_WRITTEN:
        target = folder / "staging"
        target.mkdir()
        meter = Meter(folder, "shards", 0)
        with Peak() as writing:
            shards = [
                write_shard(language, selection, shard, units, target, 1000, meter)
                for shard in selection.shards
            ]
        paths = LanguagePaths(target, folder / "source" / "eng_Latn", folder / "marker")
        staged = StagedLanguage(
            "web", "eng_Latn", paths, shards, selection.totals, count, {}, 0, {}
        )
        description = TokenizerDescription(
            kind="sentencepiece",
            vocabulary_size=1000,
            fingerprint="0" * 64,
            special_ids=SpecialIds(pad=0, end=1, begin=2, unknown=3, mask=4),
        )
        with Peak() as finishing:
            finish_language(staged, description, (CONTEXT,))
        assert count_parts(TOKENS, CONTEXT) == 2
        cells += [str(writing), str(finishing)]
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print a line for each number of documents."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, nargs="+", default=DOCUMENTS)
    parser.add_argument("--folder", type=Path, default=None, help="where to write")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.folder, options.child)
        return
    print("| documents | selecting | writing shards | index and manifest |")
    print("| --- | --- | --- | --- |", flush=True)
    for count in options.documents:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, "-m", "tests.benchmarks.bench_merge", "--child", str(count)]
            subprocess.run([*command, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
