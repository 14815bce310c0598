"""Time and size of `mmbert report` for a long run: `python -m tests.benchmarks.bench_report`."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.logged_run import LoggedRun, languages


def main() -> None:
    """Write a log, make its page in a process of its own, and print seconds and megabytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--languages", type=int, default=1833)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--output", type=Path, help="keep the page here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
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
            runs.append(run.write(Path(folder) / f"run-{number}"))
        logs = [run / "log.jsonl" for run in runs]
        lines = sum(log.read_bytes().count(b"\n") for log in logs)
        print(f"{lines:,} lines, {sum(log.stat().st_size for log in logs) / 1e6:,.0f} MB of logs")
        output = options.output or Path(folder) / "report.html"
        command = [sys.executable, "-c", "from mmbert.cli import main; main()", "report"]
        begin = time.perf_counter()
        subprocess.run([*command, *runs, "--output", output], check=True)
        seconds = time.perf_counter() - begin
        print(f"{seconds:.1f} s, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
