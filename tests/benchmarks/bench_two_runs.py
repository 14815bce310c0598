"""Two training runs at once on one machine, against one alone.

    python -m tests.benchmarks.bench_two_runs --data demo/shards

Each run is the demo recipe on the demo's shards, first as one process with a thread per core, then
as two ranks of the deepspeed launcher. Prints tokens per second of the interval that all runs
share, and the sum of two runs divided by one alone; with --spin also for threads that spin while
they wait, as OpenMP's do by default.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.environment import with_packages
from tests.support.json_lines import records

LAUNCHERS = {
    "1 process, all cores": [sys.executable, "-m", "mmbert.pretrain"],
    "2 ranks of deepspeed": ["deepspeed", "--log_level", "error", "--num_gpus", "2"],
}


def start(launcher: str, port: int, data: Path, output: Path, policy: str) -> subprocess.Popen[str]:
    """Start a run of the demo recipe in a process group of its own."""
    command = [*LAUNCHERS[launcher]]
    if command[0] == "deepspeed":
        command += ["--master_port", str(port), "--module", "mmbert.pretrain"]
    command += ["--recipe", "demo", "--data", str(data), "--output", str(output)]
    command += ["logging.every_steps=1", "evaluation.documents_per_language=1"]
    environment = with_packages(DS_ACCELERATOR="cpu", MASTER_PORT=str(port), OMP_WAIT_POLICY=policy)
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )


def rates(launcher: str, runs: int, data: Path, seconds: float, policy: str) -> list[float]:
    """Return each run's tokens per second over `seconds`, from when all of them train."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(number) for number in range(runs)]
        processes = [
            start(launcher, 29600 + number, data, output, policy)
            for number, output in enumerate(outputs)
        ]
        try:
            while not all(len(steps(output)) >= 3 for output in outputs):
                if any(process.poll() is not None for process in processes):
                    raise RuntimeError("a run ended before its third step")
                time.sleep(0.5)
            begin = time.time()
            time.sleep(seconds)
            end = time.time()
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return [
            sum(tokens for at, tokens in steps(output) if begin < at <= end) / seconds
            for output in outputs
        ]


def steps(output: Path) -> list[tuple[float, float]]:
    """Return time and tokens of every step in a run's log so far."""
    found = [record for record in records(output / "log.jsonl") if "tokens_per_second" in record]
    ends = [(record["unix_time"], record["tokens"]) for record in found]
    return [(at, tokens - before) for (_, before), (at, tokens) in itertools.pairwise(ends)]


def main() -> None:
    """Measure all launchers, alone and two at once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="shards of `make demo-shards`")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spin", action="store_true", help="also with threads that spin")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for launcher in LAUNCHERS:
        # An empty value is none: OpenMP's own default.
        for policy in ("passive", *([""] if options.spin else [])):
            ratios = []
            for _ in range(options.repeats):
                (alone,) = rates(launcher, 1, options.data, options.seconds, policy)
                both = rates(launcher, 2, options.data, options.seconds, policy)
                ratios.append(sum(both) / alone)
                print(
                    f"{launcher}, {policy or 'default'}: alone {alone:,.0f} tokens/s, two at once "
                    f"{' + '.join(f'{rate:,.0f}' for rate in both)}",
                    flush=True,
                )
            bound = "  (at least 0.8)" if policy == "passive" else ""
            ratio = statistics.median(ratios)
            print(f"{launcher}, {policy or 'default'}: together / alone {ratio:.2f}{bound}")


if __name__ == "__main__":
    main()
