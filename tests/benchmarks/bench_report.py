"""Time and size of `mmbert report` for a long run: `python -m tests.benchmarks.bench_report`.

With `--shards`, for shards of as many languages.
"""

import argparse
import gzip
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.encoded_shards import write_encoded_shards
from tests.support.logged_run import LoggedRun, languages
from tests.support.texts import documents


def main() -> None:
    """Write a log, make its page in a process of its own, and print seconds and megabytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--languages", type=int, default=1833)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--shards", action="store_true", help="report on shards, not on runs")
    parser.add_argument("--documents", type=int, default=100, help="of each language of the shards")
    parser.add_argument("--identify", help="option --identify of the report on shards")
    parser.add_argument("--output", type=Path, help="keep the page here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = (_shards if options.shards else _runs)(Path(folder), options)
        output = options.output or Path(folder) / "report.html"
        command = [sys.executable, "-c", "from mmbert.cli import main; main()", "report", *given]
        if options.identify:
            command.append(f"--identify={options.identify}")
        begin = time.perf_counter()
        subprocess.run([*command, "--output", output], check=True)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        size = output.stat().st_size
        zipped = len(gzip.compress(output.read_bytes())) / 1e6
        print(f"{seconds:.1f} s, {peak:,.0f} MiB, {size / 1e6:.1f} MB ({zipped:.1f} MB in gzip)")


def _runs(folder: Path, options: argparse.Namespace) -> list[Path]:
    """Write the logs."""
    runs = []
    for number in range(options.runs):
        run = LoggedRun(
            steps=options.lines,
            languages=languages(options.languages),
            restarts=tuple(
                (at * options.lines // 40, at * options.lines // 40 - 50) for at in range(1, 40)
            ),
            languages_every=max(10, options.lines // 400),
            tokens_per_step=4 << 20,
            seed=number,
        )
        runs.append(run.write(folder / f"run-{number}"))
    logs = [run / "log.jsonl" for run in runs]
    lines = sum(log.read_bytes().count(b"\n") for log in logs)
    print(f"{lines:,} lines, {sum(log.stat().st_size for log in logs) / 1e6:,.0f} MB of logs")
    return runs


def _shards(folder: Path, options: argparse.Namespace) -> list[Path]:
    """Write shards of random words in four scripts."""
    shards = folder / "shards"
    # Longer than what the page shows of a document.
    texts = {
        name: documents(name, options.documents, words=150) for name in languages(options.languages)
    }
    write_encoded_shards(shards, texts)
    print(f"{len(texts):,} languages of {options.documents:,} documents")
    return [shards]


if __name__ == "__main__":
    main()
