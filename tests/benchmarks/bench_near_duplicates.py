"""Near-duplicates: recall and false positives on made pairs, speed, memory.

    python -m tests.benchmarks.bench_near_duplicates [--input FOLDER] [--similarity 0.8]

The pairs have an exact Jaccard index of their shingles within 0.015 of the column's, half of them
with changed words in one place and half in many, in five scripts. Speed is that of preprocessing
with and without, in documents per CPU-second, on texts of 3,000 characters of the largest languages
of `--input` (default: CLDR). Memory is the peak of a process that compares generated signatures,
a quarter of them near-copies, with the smallest limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmbert.data.shards.manifest import NearDuplicates
from mmbert_prep.filters.signatures import Signer, plan_near_duplicates
from mmbert_prep.shards.intermediate import DOCUMENT_DTYPE, IntermediateWriter
from mmbert_prep.shards.near_duplicates import Signatures, mark_near_duplicates
from tests.benchmarks.bench_preprocess import (
    ROOT,
    cldr_documents,
    documents_of,
    lines_of,
    measured,
)
from tests.support.similar_texts import TextMaker

SIMILARITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
LANGUAGES = ("eng_Latn", "rus_Cyrl", "hin_Deva", "tha_Thai", "cmn_Hani")
LEAST_MEMORY = 32_000_000
CHARACTERS = 3_000


def store(folder: Path, values: np.ndarray, plan: NearDuplicates) -> Signatures:
    """Write signatures as those of documents of one token."""
    folder.mkdir(parents=True)
    writer = IntermediateWriter(folder, "unit", np.dtype(np.uint16), True)
    documents = np.zeros(len(values), dtype=DOCUMENT_DTYPE)
    documents["tokens"] = 1
    for start in range(0, len(values), 50_000):
        some = documents[start : start + 50_000]
        tokens = np.ones(len(some), dtype=np.uint16)
        writer.add("eng_Latn", tokens, some, values[start : start + 50_000])
    sections = writer.finish().sections
    return Signatures(folder, tuple(("unit", section) for section in sections), plan)


def rates(work: Path, plan: NearDuplicates, pairs: int) -> None:
    """Print the fraction of pairs that are found, for each similarity, and the curve's."""
    signer = Signer(plan.permutations)
    makers = [TextMaker(language, seed=7) for language in LANGUAGES]
    print(f"threshold {plan.threshold}: {plan.bands} bands of {plan.rows}, {plan.matches} matches")
    print(f"{'similarity':<12}{'pairs':>8}{'found':>10}{'share a band':>16}")
    for similarity in SIMILARITIES:
        texts: list[str] = []
        for number in range(pairs):
            maker = makers[number % len(makers)]
            texts += maker.pair(80, similarity, scattered=number % 2 == 0)
        signatures = store(work / f"pairs-{similarity}", signer.sign(texts), plan)
        statuses = np.zeros(len(texts), dtype=np.uint8)
        mark_near_duplicates(signatures, statuses, 1, LEAST_MEMORY)
        curve = 1 - (1 - similarity**plan.rows) ** plan.bands
        print(
            f"{similarity:<12}{pairs:>8}{statuses.sum() / pairs:>10.2%}{curve:>16.2%}", flush=True
        )


def speed(work: Path, source: Path | None, count: int) -> None:
    """Print documents per CPU-second of preprocessing, with and without near-duplicates."""
    known = documents_of(source) if source else cldr_documents(4)
    lines = lines_of(known, 4)
    (work / "in").mkdir()
    for language, some in lines.items():
        text = "\n".join(some)
        step = max(1, (len(text) - CHARACTERS) // (count // len(lines)))
        with open(work / "in" / f"{language}.jsonl", "w", encoding="utf-8") as file:
            for number in range(count // len(lines)):
                start = number * step
                part = f"{number} {text[start : start + CHARACTERS]}"
                file.write(json.dumps({"text": part}, ensure_ascii=False) + "\n")
    command = [str(ROOT / "launch" / "preprocess.py"), "--input", str(work / "in")]
    command += ["--workers", "1", "--maximum-bytes", "1M"]
    trained = [*command, "--vocab-size", "16384", "--output", str(work / "first")]
    measured(trained)
    command += ["--tokenizer", str(work / "first" / "tokenizer")]
    spent = {"without": float("inf"), "with": float("inf")}
    for repeat in range(2):
        for name, options in (("without", []), ("with", ["--near-duplicates", "0.8"])):
            seconds, _ = measured([*command, *options, "--output", str(work / f"{name}{repeat}")])
            spent[name] = min(spent[name], seconds)
    for name, seconds in spent.items():
        print(f"{name:<12}{count / seconds:>10,.0f} documents per CPU-second", flush=True)
    print(f"{(spent['with'] - spent['without']) / count * 1e6:.0f} microseconds a document")


def memory(work: Path, plan: NearDuplicates) -> None:
    """Print peak memory and time of comparing, for several numbers of documents."""
    for count in (2_000, 200_000, 800_000):
        generator = np.random.default_rng(3)
        values = generator.integers(0, 1 << 16, (count, plan.permutations), dtype=np.uint16)
        values[1::4, 10:] = values[::4, 10:]
        folder = work / f"signatures-{count}"
        signatures = store(folder, values, plan)
        stored = [section.model_dump() for _, section in signatures.sections]
        (folder / "sections.json").write_text(json.dumps([plan.model_dump(), stored]))
        del values
        command = [sys.executable, "-m", "tests.benchmarks.bench_near_duplicates"]
        output = subprocess.check_output([*command, "--compare", str(folder)], text=True, cwd=ROOT)
        print(f"{count:>9,} documents: {output.strip()}", flush=True)


def compare(folder: Path) -> None:
    """Compare stored signatures in this process; print its peak memory and time."""
    from mmbert_prep.shards.intermediate import Section

    plan, stored = json.loads((folder / "sections.json").read_text())
    sections = tuple(("unit", Section.model_validate(section)) for section in stored)
    signatures = Signatures(folder, sections, NearDuplicates.model_validate(plan))
    statuses = np.zeros(sum(section.documents for _, section in sections), dtype=np.uint8)
    before = peak_memory()
    started = time.process_time()
    mark_near_duplicates(signatures, statuses, 1, LEAST_MEMORY)
    seconds = time.process_time() - started
    more = (peak_memory() - before) / 1e6
    print(
        f"{more:.1f} MB above {before / 1e6:.0f} MB, {seconds:.1f} CPU-s, "
        f"{int(statuses.sum()):,} dropped"
    )


def peak_memory() -> int:
    """Return the peak memory of this program in bytes; getrusage includes what started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) * 1024


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path)
    parser.add_argument("--similarity", type=float, default=0.8)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare is not None:
        compare(options.compare)
        return
    plan = plan_near_duplicates(options.similarity, 128)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        rates(work, plan, options.pairs)
        memory(work, plan)
        speed(work, options.input, options.documents)


if __name__ == "__main__":
    main()
