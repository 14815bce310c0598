"""Starting and resuming a run of mmBERT's size: `python -m tests.benchmarks.bench_data_scale`.

Manifests describe 3T tokens in 4 billion documents of 1,833 languages; no text exists, lengths come
from a hash in place of the indexes. The state resumed from stands at 2.9T tokens, with streams as
far apart as log-normal lengths drive them. Prints seconds and peak memory of a fresh process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmbert.data.loading.data_state import DataCursor
from mmbert.data.loading.streams import Stream
from mmbert.data.sampling.phase_sampler import PieceLocator
from mmbert.data.shards.corpus import open_corpus
from mmbert.schedule import training_plan
from tests.support.generated_corpora import simulated_manifests
from tests.support.scale_run import CONTEXT, hashed_locate, scale_recipe, state_at_the_end


def child(shards: Path, state_file: Path | None) -> None:
    """Start or resume in a fresh process, then plan one row of one stream."""
    PieceLocator.locate = hashed_locate  # type: ignore[method-assign]
    recipe = scale_recipe()
    plan = training_plan(recipe)
    begin = time.perf_counter()
    state = json.loads(state_file.read_text()) if state_file else None
    corpus = open_corpus(shards)
    opened = time.perf_counter() - begin
    cursor = DataCursor(corpus, recipe, plan, state)
    ready = time.perf_counter() - begin
    stream = Stream(cursor.sampler, 0, cursor.streams[0])
    stream.next_row()
    first = time.perf_counter() - begin
    rows = 200
    for _ in range(rows):
        stream.next_row()
    each = (time.perf_counter() - begin - first) / rows
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"manifests {opened:.2f} s, ready {ready:.2f} s, first row planned {first:.2f} s, "
        f"each row {1000 * each:.2f} ms, peak {memory:.0f} MB, "
        f"gaps {int(cursor.sampler.consumption.gap_counts.sum()):,}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs="+", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1] if len(options.child) > 1 else None)
        return
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        simulated_manifests(
            shards, languages=1833, documents=4_000_000_000, tokens=3 * 10**12, context=CONTEXT
        )
        recipe = scale_recipe()
        plan = training_plan(recipe)
        cursor = DataCursor(open_corpus(shards), recipe, plan, None)
        # digests of started phases, as in a checkpoint
        state = state_at_the_end(cursor, plan.phases[1].end_step)
        consumption = cursor.sampler.consumption
        second = cursor._open_sampler(1, consumption)
        del second
        state["digests"] = cursor._digests
        file = Path(folder) / "state.json"
        file.write_text(json.dumps(state))
        for name, arguments in (("start", [shards]), ("resume at 2.9T", [shards, file])):
            print(f"{name}: ", end="", flush=True)
            module = "tests.benchmarks.bench_data_scale"
            command = [sys.executable, "-m", module, "--child", *map(str, arguments)]
            subprocess.run(command, check=True, timeout=300)


if __name__ == "__main__":
    main()
