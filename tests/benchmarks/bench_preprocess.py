"""Preprocessing per CPU-second: against the raw tokenizer, and against a Megatron-style pipeline.

    python tests/benchmarks/bench_preprocess.py [--input FOLDER] [--megabytes 40] [--languages 3]

Text: `--input` (anything launch/preprocess.py reads), else made from CLDR data.
Every figure is bytes of text by CPU-seconds (user and system, all processes), after what the same
run costs on one document was taken off (imports, loading the model). The Megatron-style pipeline is
written after what Megatron-LM's tools/preprocess_data.py does: one parent hands lines to a pool,
workers send lists of ids back through a pipe, the parent turns them into arrays and writes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece

ROOT = Path(__file__).resolve().parents[2]
HIGH = {
    "eng_Latn": "en", "rus_Cyrl": "ru", "cmn_Hans": "zh", "deu_Latn": "de", "fra_Latn": "fr",
    "spa_Latn": "es", "jpn_Jpan": "ja", "por_Latn": "pt", "tur_Latn": "tr", "arb_Arab": "ar",
    "hin_Deva": "hi", "kor_Hang": "ko",
}  # fmt: skip


def make_text(folder: Path, megabytes: float, document_bytes: int, languages: int) -> None:
    """JSON lines per language of documents of about `document_bytes`, from CLDR data."""
    from mmbert_prep.demo_text import DocumentMaker

    folder.mkdir(parents=True)
    for language, locale in list(HIGH.items())[:languages]:
        with open(folder / f"{language}.jsonl", "w", encoding="utf-8") as file:
            written, parts, size = 0, [], 0
            for text in DocumentMaker(locale).documents():
                parts.append(text)
                size += len(text.encode())
                if size >= document_bytes:
                    file.write(json.dumps({"text": "\n".join(parts)}, ensure_ascii=False) + "\n")
                    written, parts, size = written + size, [], 0
                    if written >= megabytes * 1e6 / languages:
                        break


def texts_of(folder: Path) -> Iterator[str]:
    """The documents of an input, as the pipeline reads them."""
    from mmbert_prep.discovery import discover
    from mmbert_prep.readers import read_segment
    from mmbert_prep.settings import PrepSettings
    from mmbert_prep.units import plan_units

    settings = PrepSettings(input=str(folder), output=folder / "out")
    for unit in plan_units(discover(settings), settings).units:
        for segment in unit.segments:
            for document in read_segment(segment, settings):
                if document.data is not None:
                    yield document.data.decode()


def raw(lines: Path, model: Path, accelerator: bool) -> None:
    """Only the tokenizer: all documents in memory, batches of a megabyte."""
    with open(lines, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    started = time.process_time()
    if accelerator:
        import kitoken

        fast = kitoken.Kitoken.from_sentencepiece(model.read_bytes())
        started = time.process_time()
        for text in texts:
            fast.encode(text, False)
    else:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        started = time.process_time()
        for start in range(0, len(texts), 500):
            processor.encode(texts[start : start + 500], return_type="numpy")
    print(time.process_time() - started)


_PROCESSOR: sentencepiece.SentencePieceProcessor


def _begin(model: str) -> None:
    global _PROCESSOR
    _PROCESSOR = sentencepiece.SentencePieceProcessor(model_file=model)


def _encode_line(line: str) -> tuple[dict[str, list[int]], dict[str, list[int]], int]:
    text = json.loads(line)["text"]
    ids = _PROCESSOR.encode(text)
    return {"text": ids}, {"text": [len(ids)]}, len(line)


def megatron_style(lines: Path, model: Path, output: Path, workers: int) -> None:
    """The pipeline with one parent through which all tokens pass."""
    lengths: list[int] = []
    context = multiprocessing.get_context("fork")
    with (
        context.Pool(workers, _begin, (str(model),)) as pool,
        open(lines, encoding="utf-8") as source,
        open(output, "wb") as target,
    ):
        for ids, sizes, _ in pool.imap(_encode_line, source, 32):
            for key, values in ids.items():
                target.write(np.array(values, dtype=np.int32).tobytes(order="C"))
                lengths.extend(sizes[key])
        pool.close()
        pool.join()
    np.array(lengths, dtype=np.int32).tofile(output.with_suffix(".idx"))


def ours(folder: Path, model: Path, output: Path, workers: int, accelerator: str) -> list[str]:
    """The command that a user gives."""
    return [
        str(ROOT / "launch" / "preprocess.py"),
        *("--input", str(folder), "--output", str(output), "--tokenizer", str(model)),
        *("--workers", str(workers), "--accelerator", accelerator, "--heldout-share", "0.01"),
    ]


def measured(command: list[str]) -> tuple[float, float]:
    """(CPU-seconds of all processes, wall seconds) of a Python command."""
    path = os.pathsep.join(str(ROOT / name) for name in ("src", "kernels", "data_prep"))
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
    """Runs each way on the whole text and on a single document; the difference is what counts."""

    def __init__(self, work: Path, folder: Path, vocabulary_size: int, repeats: int) -> None:
        self.work, self.folder, self.repeats = work, folder, repeats
        self.lines, self.one = work / "all.jsonl", work / "one"
        self.size = 0
        first = ""
        with open(self.lines, "w", encoding="utf-8") as file:
            for text in texts_of(folder):
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

    def rate(self, name: str, make: object) -> tuple[float, float]:
        """MB per CPU-second and MB per wall second, the best of some repeats."""
        best = [float("inf"), float("inf")]
        for _ in range(self.repeats):
            fixed = measured(make(True))  # type: ignore[operator]
            whole = measured(make(False))  # type: ignore[operator]
            best = [min(b, w - f) for b, w, f in zip(best, whole, fixed, strict=True)]
        cpu, wall = self.size / 1e6 / best[0], self.size / 1e6 / best[1]
        print(f"{name:<44}{cpu:8.2f} MB/CPU-s {wall:8.2f} MB/s", flush=True)
        return cpu, wall

    def raw_rate(self, name: str, accelerator: bool) -> float:
        """MB per CPU-second of the tokenizer alone."""
        script = [__file__, "raw", str(self.lines), str(self.model), str(int(accelerator))]
        path = os.pathsep.join(str(ROOT / part) for part in ("src", "kernels", "data_prep"))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        seconds = min(
            float(subprocess.check_output([sys.executable, *script], env=environment))
            for _ in range(self.repeats)
        )
        print(f"{name:<44}{self.size / 1e6 / seconds:8.2f} MB/CPU-s", flush=True)
        return self.size / 1e6 / seconds

    def our_command(self, accelerator: str, workers: int, one: bool) -> list[str]:
        """The pipeline on everything or on one document, into a fresh folder."""
        output = self.work / "ours"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(self.model.parent, output / "tokenizer")
        return ours(self.one if one else self.folder, self.model, output, workers, accelerator)

    def megatron_command(self, workers: int, one: bool) -> list[str]:
        """The Megatron-style pipeline on everything or on one document."""
        lines = self.one / "eng_Latn.jsonl" if one else self.lines
        output = self.work / "megatron.bin"
        return [__file__, "megatron", str(lines), str(self.model), str(output), str(workers)]


def main() -> None:
    """Run everything and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument(
        "--languages", type=int, default=3, help="few: 200 documents of each are proving kitoken"
    )
    parser.add_argument("--document-bytes", type=int, default=3800)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = options.input or work / "text"
        if options.input is None:
            make_text(folder, options.megabytes, options.document_bytes, options.languages)
        bench = Bench(work, folder, options.vocab_size, options.repeats)
        print(f"{bench.size / 1e6:.1f} MB of text, load {os.getloadavg()[0]:.1f}")
        raw_exact = bench.raw_rate("raw SentencePiece", False)
        raw_fast = bench.raw_rate("raw kitoken", True)
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
        other, _ = bench.rate(
            "Megatron style, SentencePiece, 2 workers", lambda one: bench.megatron_command(2, one)
        )
        print(f"ours / raw, SentencePiece        {exact / raw_exact:5.2f}  (at least 0.9)")
        print(f"ours / raw, kitoken              {fast / raw_fast:5.2f}  (at least 0.8)")
        print(f"ours / Megatron, same tokenizer  {both / other:5.2f}  (at least 1.25)")
        print(f"ours / Megatron, by default      {default_two / other:5.2f}  (at least 2.5)")
        print(f"1 -> 2 workers, wall             {two_wall / one_wall:5.2f}  (at least 1.8)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["raw"]:
        raw(Path(sys.argv[2]), Path(sys.argv[3]), bool(int(sys.argv[4])))
    elif sys.argv[1:2] == ["megatron"]:
        megatron_style(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
