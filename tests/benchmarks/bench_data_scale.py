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
from typing import Any

import numpy as np

from mmbert.data.loading.data_state import DataCursor, DataState
from mmbert.data.loading.streams import Stream
from mmbert.data.sampling.permutation import splitmix64
from mmbert.data.sampling.phase_sampler import PieceLocator, Pieces
from mmbert.data.shards.corpus import open_corpus
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan
from tests.support.generated_corpora import simulated_manifests

ROW_TOKENS, STREAMS, CONTEXT = 49_152, 96, 8192


def scale_recipe() -> Recipe:
    """The three phases of mmBERT-base over one temperature-sampled source."""

    def phase(name: str, tokens: str, **changes: Any) -> dict[str, Any]:
        return {
            "name": name,
            "tokens": tokens,
            "context": CONTEXT,
            "mask_ratio": 0.15,
            "rotary_bases": {"global": 160_000, "local": 160_000},
            **changes,
        }

    return Recipe.model_validate(
        {
            "name": "scale",
            "model": {"preset": "base"},
            "data": {"sources": [{"name": "web"}]},
            "batch": {"row_tokens": ROW_TOKENS, "rows": STREAMS, "quantum": STREAMS},
            "optimizer": {"learning_rate": 8e-4},
            "phases": [
                phase(
                    "pretrain",
                    "2.3T",
                    context=1024,
                    temperature=0.7,
                    languages=[f"l{i:04d}_Latn" for i in range(60)],
                ),
                phase(
                    "extend",
                    "600B",
                    temperature=0.5,
                    languages=[f"l{i:04d}_Latn" for i in range(110)],
                ),
                phase("decay", "100B", temperature=0.3, languages="all"),
            ],
        }
    )


def hashed_find(self: PieceLocator, components: np.ndarray, numbers: np.ndarray) -> Pieces:
    """In place of the indexes: log-normal lengths of mean 750 from a hash of the piece's number."""
    words = splitmix64(numbers.astype(np.uint64) * np.uint64(1833) + components.astype(np.uint64))
    uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
    # a logistic stands in for the normal: heavy-tailed enough, and in closed form
    lengths = np.exp(np.log(500.0) + np.log(uniform / (1 - uniform)) * 0.55)
    lengths = np.clip(lengths, 1, CONTEXT - 2).astype(np.int64)
    zeros = np.zeros(len(numbers), dtype=np.int64)
    return Pieces(numbers, zeros, lengths, zeros, zeros)


def state_at_the_end(cursor: DataCursor, steps: int) -> DataState:
    """The data state at the end of the second phase, with positions as lengths scatter them."""
    random = np.random.default_rng(0)
    ended = []
    for phase in range(2):
        pieces = cursor._mixtures[phase].pieces.sum() / STREAMS
        # standard deviation of a sum of n lengths whose own deviation is 1.5 times their mean
        positions = pieces + random.normal(0, 1.5 * np.sqrt(pieces), STREAMS)
        ended.append({"positions": positions.astype(int).tolist(), "returned": []})
    state = cursor.state_dict(steps, {n: cursor.streams[n] for n in range(STREAMS)})
    state["phase"] = 1
    state["ended"] = ended[:1]  # type: ignore[typeddict-item]
    for number in range(STREAMS):
        state["streams"][str(number)] = {
            "position": ended[1]["positions"][number],
            "carried": [],
            "kept": [],
        }
    return state


def child(shards: Path, state_file: Path | None) -> None:
    """A fresh process: start (or resume), then plan one row of one stream."""
    PieceLocator.find = hashed_find  # type: ignore[method-assign]
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
        # digests of phases begun, as a checkpoint would have them
        state = state_at_the_end(cursor, plan.phases[1].end_step)
        consumption = cursor.sampler.consumption
        second = cursor._order(1, consumption)
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
