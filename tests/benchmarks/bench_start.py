"""Start of one rank of 1,024 with 1,833 languages: `python -m tests.benchmarks.bench_start`.

The steps of a start in a fresh process, each with its processor time, memory, file descriptors and
memory maps. First with the manifests of mmbert-base's sources (no text), then with small real
shards of as many languages, which a rank opens for validation rows, unigrams and training rows.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmbert.data.loading.data_state import DataCursor
from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.validation_rows import unigram_loss, validation_rows
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.recipe_warnings import corpus_warnings
from mmbert.data.shards.corpus import open_corpus
from mmbert.data.shards.file_sizes import check_file_sizes
from mmbert.data.shards.manifest import MANIFEST_NAME, read_manifest
from mmbert.recipe import Recipe, override_recipe
from mmbert.schedule import training_plan
from tests.support.corpora import write_corpus
from tests.support.scale_run import scale_recipe
from tests.support.wide_runs import WIDEST, write_base_manifests

LANGUAGES = 1833
RANK, RANKS = 517, 1024


class Steps:
    """Prints what a step took, and what the process then holds."""

    def __init__(self) -> None:
        print("| step | CPU-seconds | seconds | peak MB | descriptors | maps |")
        print("| --- | --- | --- | --- | --- | --- |")

    def run(self, name: str, action: Callable[[], Any]) -> Any:
        """Run and print a step."""
        cpu, begin = time.process_time(), time.perf_counter()
        result = action()
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        handles = len(os.listdir("/proc/self/fd")) - 1
        maps = len(Path("/proc/self/maps").read_text().splitlines())
        print(
            f"| {name} | {cpu:.2f} | {seconds:.2f} | {memory:.0f} | {handles:,} | {maps:,} |",
            flush=True,
        )
        return result


def start_with_manifests(shards: Path) -> None:
    """Do what a rank of mmbert-base does before it opens a shard."""
    steps = Steps()
    steps.run("imports", lambda: None)
    recipe = WIDEST.recipe()
    plan = steps.run("recipe and plan", lambda: training_plan(recipe))
    corpus = steps.run("all manifests", lambda: open_corpus(shards))
    steps.run("table of components", lambda: ComponentTable.build(corpus, recipe, plan))
    steps.run("warnings", lambda: corpus_warnings(recipe, plan, corpus))
    cursor = steps.run("sampler", lambda: DataCursor(corpus, recipe, plan, None))
    del cursor
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(
        f"{len(corpus.components):,} components, "
        f"{sum(len(c.manifest.train.shards) for c in corpus.components):,} shards; at most "
        f"{corpus.shards._capacity:,} open at once under a limit of {soft:,} ({hard:,}) descriptors"
    )


def small_recipe() -> Recipe:
    """Return the recipe of the scale benchmarks, for 1,024 ranks, short and in small rows."""
    batch = {"row_tokens": 9216, "rows": RANKS, "quantum": RANKS}
    changes: dict[str, Any] = {"batch": batch}
    for phase in scale_recipe().phases:
        changes[f"phases.{phase.name}.tokens"] = "20M"
        changes[f"phases.{phase.name}.languages"] = "all"
    return override_recipe(scale_recipe(), changes)


def write_shards(shards: Path) -> None:
    """Write small shards of all languages: 40 documents to train on, 32 held out."""
    languages = {f"l{number:04d}_Latn": [200] * 40 for number in range(LANGUAGES)}
    write_corpus(shards, {"web": languages}, contexts=(8192,), heldout=[100] * 32)


def start_with_shards(shards: Path) -> None:
    """Do what a rank does with shards until its first rows."""
    steps, recipe = Steps(), small_recipe()
    plan = training_plan(recipe)
    corpus = steps.run("all manifests", lambda: open_corpus(shards))
    sources = {"web"}
    steps.run(
        "sizes of this rank's share of files",
        lambda: check_file_sizes(corpus, sources, 8192, rank=RANK, ranks=RANKS),
    )
    rows = steps.run(
        "validation rows",
        lambda: validation_rows(
            corpus,
            sources=sources,
            settings=recipe.evaluation.model_copy(update={"documents_per_language": 32}),
            context=1024,
            row_tokens=recipe.batch.row_tokens,
            masking=recipe.data.masking,
            rank=RANK,
            ranks=RANKS,
        ),
    )
    steps.run(
        "unigrams, this rank's share", lambda: unigram_loss(corpus, rows, rank=RANK, ranks=RANKS)
    )
    loader = RowLoader(
        corpus,
        recipe,
        plan,
        data_rank=RANK,
        data_ranks=RANKS,
        exchange=lambda own: [own],
    )
    iterator = iter(loader)
    steps.run("two training rows", lambda: [next(iterator) for _ in range(2)])


def main() -> None:
    """Print the figures, each part from a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--child", choices=("manifests", "shards"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help="where to write")
    options = parser.parse_args()
    if options.child:
        start = start_with_manifests if options.child == "manifests" else start_with_shards
        start(options.folder)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_base_manifests(Path(folder) / "manifests")
        write_shards(Path(folder) / "shards")
        for part in ("manifests", "shards"):
            files = list((Path(folder) / part).glob(f"*/*/{MANIFEST_NAME}"))
            size = sum(file.stat().st_size for file in files)
            train = sum(read_manifest(file.parent).train.tokens for file in files)
            print(f"\n{part}: {len(files):,} manifests, {size / 1e6:.1f} MB, {train:,} tokens")
            command = [sys.executable, "-m", "tests.benchmarks.bench_start", "--child", part]
            subprocess.run([*command, "--folder", str(Path(folder) / part)], check=True)


if __name__ == "__main__":
    main()
