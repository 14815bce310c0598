"""Throughput of preprocessing, compared with the tokenizer alone and with Megatron-LM.

    python tests/benchmarks/bench_preprocess.py [--input FOLDER] [--megatron CHECKOUT]

The text consists of documents with lengths as on the web, composed from lines of the largest
languages of `--input` (any input of launch/preprocess.py), by default from CLDR. `--megatron` is a
checkout of NVIDIA/Megatron-LM, whose tools/preprocess_data.py is run unchanged (Python 3.12 or
newer, or 3.11 with typing.override from a sitecustomize module on PYTHONPATH).
Throughput is bytes of text per CPU-second (user and system, all processes), without the time that
the same run takes on one document (imports, loading the model).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).resolve().parents[2]
HIGH = {
    "eng_Latn": "en", "rus_Cyrl": "ru", "cmn_Hani": "zh", "deu_Latn": "de", "fra_Latn": "fr",
    "spa_Latn": "es", "jpn_Jpan": "ja", "por_Latn": "pt", "tur_Latn": "tr", "arb_Arab": "ar",
    "hin_Deva": "hi", "kor_Hang": "ko",
}  # fmt: skip


def make_text(folder: Path, lines: dict[str, list[str]], megabytes: float) -> None:
    """Write JSON lines per language: documents with a median of 2.4 kB, of consecutive lines."""
    folder.mkdir(parents=True)
    generator = random.Random(21)
    for language, known in lines.items():
        size = 0
        with open(folder / f"{language}.jsonl", "w", encoding="utf-8") as file:
            while size < megabytes * 1e6 / len(lines):
                wanted, parts = generator.lognormvariate(7.8, 0.9), list[str]()
                while wanted > 0:
                    first = generator.randrange(len(known))
                    parts.append("\n".join(known[first : first + 4]))
                    wanted -= len(parts[-1].encode()) + 1
                text = "\n".join(parts)
                size += len(text.encode())
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def lines_of(documents: Iterable[tuple[str, str]], languages: int) -> dict[str, list[str]]:
    """Return the lines of the largest languages, from (language, text) pairs."""
    lines: dict[str, list[str]] = {}
    for language, text in documents:
        lines.setdefault(language, []).extend(text.split("\n"))
    sizes = {language: sum(map(len, known)) for language, known in lines.items()}
    return {key: lines[key] for key in sorted(sizes, key=sizes.__getitem__)[-languages:]}


def cldr_documents(languages: int) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of some megabytes of CLDR data per language."""
    from mmbert_prep.demo.text import DocumentGenerator

    for language, locale in list(HIGH.items())[:languages]:
        for text in itertools.islice(DocumentGenerator(locale).documents(), 20_000):
            yield language, text


def documents_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of the documents of an input."""
    from mmbert_prep.executor.work_units import plan_work_units
    from mmbert_prep.readers import read_range
    from mmbert_prep.readers.discovery import discover
    from mmbert_prep.settings import PrepSettings

    settings = PrepSettings(input=str(folder), output=folder / "out")
    for unit in plan_work_units(discover(settings), settings).units:
        for file_range in unit.file_ranges:
            for document in read_range(file_range, settings):
                if document.data is not None and document.language is not None:
                    yield document.language, document.data.decode()


def raw(lines: Path, model: Path, way: str) -> None:
    """Run only the tokenizer, on documents in memory, in batches of 500 or one by one."""
    with open(lines, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    batches = [texts[start : start + 500] for start in range(0, len(texts), 500)]
    if way == "SentencePiece":
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        started = time.process_time()
        for batch in batches:
            processor.encode(batch, return_type="numpy", num_threads=1)
    else:
        import kitoken

        fast = kitoken.Kitoken.from_sentencepiece(model.read_bytes())
        started = time.process_time()
        if way == "kitoken":
            for batch in batches:
                fast.encode_all(batch, False)
        else:
            for text in texts:
                fast.encode(text, False)
    print(time.process_time() - started)


def ours(folder: Path, model: Path, output: Path, workers: int, fast_encoder: str) -> list[str]:
    """Return the command of a run."""
    return [
        str(ROOT / "launch" / "preprocess.py"),
        *("--input", str(folder), "--output", str(output), "--tokenizer", str(model)),
        *("--workers", str(workers), "--fast-encoder", fast_encoder, "--heldout-fraction", "0.01"),
    ]


PATHS = [str(ROOT / name) for name in ("src", "kernels", "data_prep")]


def measured(command: list[str], paths: list[str] = PATHS) -> tuple[float, float]:
    """Return the CPU-seconds of all processes and the wall seconds of a Python command."""
    path = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )
    wall = time.monotonic() - started
    if result.returncode:
        raise RuntimeError(result.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, wall


class Bench:
    """Measures the difference between runs on the whole text and on a single document."""

    def __init__(self, work: Path, folder: Path, vocabulary_size: int, repeats: int) -> None:
        self.work, self.folder, self.repeats = work, folder, repeats
        self.lines, self.one = work / "all.jsonl", work / "one"
        self.size = 0
        first = ""
        with open(self.lines, "w", encoding="utf-8") as file:
            for _, text in documents_of(folder):
                first = first or text
                self.size += len(text.encode())
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        self.one.mkdir()
        (self.one / "eng_Latn.jsonl").write_text(json.dumps({"text": first}) + "\n")
        shards = work / "tokenizer"
        training = ["--vocab-size", str(vocabulary_size), "--workers", "2"]
        command = [str(ROOT / "launch" / "preprocess.py"), "--input", str(folder)]
        measured([*command, "--output", str(shards), *training])
        self.model = shards / "tokenizer" / "tokenizer.model"

    def rate(
        self, name: str, make: Callable[[bool], list[str]], paths: list[str] = PATHS
    ) -> tuple[float, float]:
        """Return MB per CPU-second and MB per wall second, the best of several repeats."""
        best = [float("inf"), float("inf")]
        for _ in range(self.repeats):
            fixed = measured(make(True), paths)
            whole = measured(make(False), paths)
            best = [min(b, w - f) for b, w, f in zip(best, whole, fixed, strict=True)]
        cpu, wall = self.size / 1e6 / best[0], self.size / 1e6 / best[1]
        print(f"{name:<44}{cpu:8.2f} MB/CPU-s {wall:8.2f} MB/s", flush=True)
        return cpu, wall

    def raw_rate(self, way: str) -> float:
        """Return MB per CPU-second of the tokenizer alone."""
        script = [__file__, "raw", str(self.lines), str(self.model), way]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        seconds = min(
            float(subprocess.check_output([sys.executable, *script], env=environment))
            for _ in range(self.repeats)
        )
        print(f"{'raw ' + way:<44}{self.size / 1e6 / seconds:8.2f} MB/CPU-s", flush=True)
        return self.size / 1e6 / seconds

    def our_command(self, fast_encoder: str, workers: int, one: bool) -> list[str]:
        """Return the command of the pipeline on all text or one document, into a new folder."""
        output = self.work / "ours"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(self.model.parent, output / "tokenizer")
        return ours(self.one if one else self.folder, self.model, output, workers, fast_encoder)

    def megatron_command(self, checkout: Path, workers: int, one: bool) -> list[str]:
        """Return the command of Megatron-LM on all text or one document."""
        lines = self.one / "eng_Latn.jsonl" if one else self.lines
        return [
            str(checkout / "tools" / "preprocess_data.py"),
            *("--input", str(lines), "--output-prefix", str(self.work / "megatron")),
            *("--tokenizer-type", "SentencePieceTokenizer", "--tokenizer-model", str(self.model)),
            *("--workers", str(workers), "--log-interval", "1000000"),
        ]


def main() -> None:
    """Run all measurements and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path)
    parser.add_argument("--megabytes", type=float, default=480, help="of text, all languages")
    parser.add_argument(
        "--languages", type=int, default=4, help="200 documents of each are used for verification"
    )
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--megatron", type=Path, help="a checkout of NVIDIA/Megatron-LM")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        known = documents_of(options.input) if options.input else cldr_documents(options.languages)
        make_text(work / "text", lines_of(known, options.languages), options.megabytes)
        bench = Bench(work, work / "text", options.vocab_size, options.repeats)
        print(f"{bench.size / 1e6:.1f} MB of text, load {os.getloadavg()[0]:.1f}")
        raw_exact = bench.raw_rate("SentencePiece")
        raw_fast, raw_single = bench.raw_rate("kitoken"), bench.raw_rate("kitoken, one by one")
        exact, one_wall = bench.rate(
            "ours, SentencePiece, 1 worker", lambda one: bench.our_command("none", 1, one)
        )
        fast, _ = bench.rate(
            "ours, default (kitoken), 1 worker", lambda one: bench.our_command("auto", 1, one)
        )
        both, two_wall = bench.rate(
            "ours, SentencePiece, 2 workers", lambda one: bench.our_command("none", 2, one)
        )
        default_two, _ = bench.rate(
            "ours, default (kitoken), 2 workers", lambda one: bench.our_command("auto", 2, one)
        )
        print(f"ours / raw, SentencePiece        {exact / raw_exact:5.2f}  (at least 0.9)")
        print(f"ours / raw, kitoken              {fast / raw_fast:5.2f}  (at least 0.8)")
        print(f"ours / raw, kitoken, one by one  {fast / raw_single:5.2f}")
        print(f"1 -> 2 workers, wall             {two_wall / one_wall:5.2f}  (at least 1.8)")
        if options.megatron is None:
            print("skipping Megatron-LM; use --megatron CHECKOUT to compare with it")
            return
        other, _ = bench.rate(
            "Megatron-LM, SentencePiece, 2 workers",
            lambda one: bench.megatron_command(options.megatron, 2, one),
            [str(options.megatron)],
        )
        print(f"ours / Megatron, same tokenizer  {both / other:5.2f}  (at least 1.25)")
        print(f"ours / Megatron, by default      {default_two / other:5.2f}  (at least 2.5)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["raw"]:
        raw(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        main()
