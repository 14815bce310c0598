"""Throughput of packing and masking per core: `python -m tests.benchmarks.bench_data`.

Prints tokens per CPU-second of one process for mean piece lengths of 50 and 1,000 tokens, rows of
49,152 tokens and 96 streams: all streams on one rank (which keeps every stream's pieces in use),
and one stream per rank (as on a large cluster).
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

from mmbert.data.loading.loader import RowLoader
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan
from tests.support.generated_corpora import real_corpus

ROW_TOKENS = 49_152


def bench_recipe(context: int, streams: int, mask_ratio: float = 0.3) -> Recipe:
    """Return a recipe with one long phase in the shape of mmBERT-base."""
    phase: dict[str, Any] = {
        "name": "bench",
        "tokens": ROW_TOKENS * streams * 1000,
        "context": context,
        "languages": "all",
        "temperature": 0.7,
        "mask_ratio": mask_ratio,
        "rotary_bases": {"global": 10_000, "local": 10_000},
    }
    return Recipe.model_validate(
        {
            "name": "bench",
            "model": {"preset": "base"},
            "data": {"sources": [{"name": "web"}]},
            "batch": {"row_tokens": ROW_TOKENS, "rows": streams, "quantum": streams},
            "optimizer": {"learning_rate": 8e-4},
            "phases": [phase],
        }
    )


def measure(corpus: Corpus, recipe: Recipe, ranks: int, rows: int) -> float:
    """Measure tokens per CPU-second of one rank of `ranks`, after reading the files once."""
    loader = RowLoader(
        corpus, recipe, training_plan(recipe), data_ranks=ranks, exchange=lambda own: [own]
    )
    iterator = iter(loader)
    for _ in range(max(4, min(rows, 96 // ranks))):
        next(iterator)
    begin = time.process_time()
    tokens = sum(next(iterator).tokens for _ in range(rows))
    return tokens / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=40_000_000, help="tokens of the corpus")
    parser.add_argument("--rows", type=int, default=200, help="rows to measure")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    for mean in (50, 1000):
        for context, languages in ((1024, 60), (8192, 110), (8192, 1833)):
            with tempfile.TemporaryDirectory() as folder:
                corpus = real_corpus(
                    Path(folder),
                    tokens=options.tokens,
                    mean_length=mean,
                    languages=languages,
                    context=context,
                )
                recipe = bench_recipe(context, 96)
                profile = cProfile.Profile()
                if options.profile:
                    profile.enable()
                rates = [measure(corpus, recipe, ranks, options.rows) for ranks in (1, 96)]
                profile.disable()
                print(
                    f"mean length {mean:5d}  context {context:5d}  {languages:4d} languages: "
                    f"{rates[0] / 1e6:6.1f} million tokens/s per core with all 96 streams, "
                    f"{rates[1] / 1e6:6.1f} with one",
                    flush=True,
                )
                if options.profile:
                    pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
