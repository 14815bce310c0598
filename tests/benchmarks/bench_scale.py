"""What each rank of mmbert-base does on 8 to 1,024 GPUs: `python -m tests.benchmarks.bench_scale`.

Computed by the code that a run executes, rank by rank: plan, rows, text, partitions, checkpoint. No
text exists; manifests have the published tokens of 1,833 languages, and lengths of documents come
from a hash. DeepSpeed runs on torch's fake backend, whose collectives send nothing. The checkpoint
is written for real, all files by this process (3.7 GB in `--folder`); its values are those of
one rank. What is not simulated: GPUs, the network, a shared file system under load. Times are of
the processor, but for the files of a checkpoint.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmbert.checkpoint.format import INDEX_NAME, Index, RunState
from mmbert.checkpoint.reader import CheckpointReader, verify_checkpoint
from mmbert.checkpoint.staging import HostStaging
from mmbert.checkpoint.writer import SaveJob, Writer
from mmbert.data.loading.data_state import DataCursor, DataState, gather_states
from mmbert.data.loading.row_source import rows_of_rank
from mmbert.data.loading.streams import Stream
from mmbert.data.sampling.phase_sampler import COMPONENT, NUMBER, START, PieceLocator
from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import UserError
from mmbert.model.config import encoder_config
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import dump_recipe, load_recipe
from mmbert.recipe.division import check_data_ranks
from mmbert.schedule import training_plan
from tests.support.scale_run import hashed_locate
from tests.support.simulated_ranks import (
    fragments_of_data_rank,
    simulated_engine,
    simulated_rank,
)
from tests.support.wide_runs import RUNS, WIDEST, WideRun, write_base_manifests

STEPS = 20
"""Steps of each phase in which the rows of all ranks are compared."""


def print_plan(run: WideRun) -> None:
    """Print the plan of a run, after checking the rows of all its ranks."""
    recipe = run.recipe()
    check_data_ranks(recipe.batch, recipe.parallel, run.gpus)
    plan, begin = training_plan(recipe), time.process_time()
    for phase in plan.phases:
        for first in (phase.first_step, phase.end_step - STEPS):
            rows: dict[int, list[int]] = defaultdict(list)
            counts = defaultdict(set)
            for rank in range(run.data_ranks):
                found = rows_of_rank(plan, phase, first, rank, run.data_ranks)
                for step, own in itertools.islice(found, STEPS):
                    rows[step] += own
                    counts[step].add(len(own))
            for step, together in rows.items():
                at = plan.at(step)
                assert sorted(together) == list(range(at.first_row, at.first_row + at.rows))
                assert len(counts[step]) == 1
    seconds = time.process_time() - begin
    per_phase = ", ".join(
        f"{phase.rows or recipe.batch.rows} ({(phase.rows or recipe.batch.rows) // run.data_ranks})"
        for phase in recipe.phases
    )
    print(
        f"{run.gpus} GPUs: tensor {run.tensor}, {run.data_ranks} data ranks, rows of "
        f"{run.row_tokens:,} tokens, a step (a rank): {per_phase}; {plan.steps:,} steps; rows of "
        f"all ranks in {6 * STEPS} steps disjoint, complete, equally many ({seconds:.1f} s)"
    )


def print_refusals() -> None:
    """Print what the recipe's own batch and smaller rows meet at 1,024 GPUs."""
    recipe = load_recipe("mmbert-base")
    try:
        check_data_ranks(recipe.batch, recipe.parallel, 1024, unit="GPUs")
    except UserError as error:
        print(f"mmbert-base as it is on 1,024 GPUs: {error.message}")
    small = WideRun(1024, 1, 4608, 1024, 8192, None)
    try:
        small.recipe()
    except UserError as error:
        print(f"its batch in rows of 4,608 tokens: {error.message}")


def data_states(shards: Path) -> DataState:
    """Draw a row of every stream of the widest run; return the state after it."""
    PieceLocator.locate = hashed_locate  # type: ignore[method-assign]
    recipe, corpus = WIDEST.recipe(), open_corpus(shards)
    plan, begin = training_plan(recipe), time.process_time()
    cursor = DataCursor(corpus, recipe, plan, None)
    ready, begin = time.process_time() - begin, time.process_time()
    drawn: list[np.ndarray] = []
    after = {}
    for number in range(WIDEST.data_ranks):
        stream = Stream(cursor.sampler, number, cursor.streams[number])
        drawn.append(stream.next_row()[:, [COMPONENT, NUMBER, START]])
        after[number] = stream.state_dict()
    segments = np.concatenate(drawn)
    assert len(np.unique(segments, axis=0)) == len(segments)
    each = (time.process_time() - begin) / len(drawn)
    print(
        f"sampler of a rank: {ready:.2f} s; {len(drawn):,} ranks' first rows: {len(segments):,} "
        f"segments, none twice, {1000 * each:.1f} ms a rank"
    )
    state = cursor.state_dict(1, after)
    one = cursor.state_dict(1, {0: after[0]})
    sent: list[Any] = []

    def send(own: Any) -> list[Any]:
        sent.append(own)
        return [own]

    gather_states(one, send)
    whole, small = len(pickle.dumps(one)), len(pickle.dumps(sent[0]))
    print(
        f"data state of a rank: {whole:,} bytes, sent of it {small:,}; received by a rank from "
        f"1,024: {1024 * small / 1e6:.1f} MB (with all of it {1024 * whole / 1e6:.0f} MB)"
    )
    return state


def save(data: DataState, folder: Path) -> None:
    """Partition the model and write the checkpoint of all ranks of the widest run."""
    run, recipe = WIDEST, WIDEST.recipe()
    state = RunState(
        step=1, tokens=1, phase="pretrain", recipe=dump_recipe(recipe), data=dict(data)
    )
    partial = folder / ".partial"
    partial.mkdir()
    path = folder / "step-00000001"
    with simulated_rank(0, run.gpus):
        begin = time.process_time()
        grid = build_grid(tensor_parallel=run.tensor)
        grid_seconds = time.process_time() - begin
        encoder = encoder_config(recipe.model, 256_000)
        model = MaskedLanguageModel(encoder, grid.tensor, sequence_parallel=False)
        engine = simulated_engine(model, recipe, grid)
        lengths, planning, writing, staging = [], 0.0, 0.0, HostStaging()
        for rank in [*range(1, run.gpus), 0]:  # rank 0 commits
            begin = time.process_time()
            fragments = fragments_of_data_rank(engine, rank)
            specs = staging.stage(fragments, torch.device("cpu"))
            planning += time.process_time() - begin
            lengths.append(sum(spec.length for spec in specs))
            job = SaveJob(
                path=path,
                partial=partial,
                rank=rank,
                world_size=run.gpus,
                writer="benchmark",
                number=0,
                permanent=True,
                state=state,
                optimizer_steps=1,
                tensor=run.tensor,
                data=run.data_ranks,
                zero_stage=1,
                commit_timeout=60.0,
            )
            begin, cpu = time.perf_counter(), time.process_time()
            writer = Writer(job, staging, specs, lambda: None)
            writer.start()
            assert writer.result() is None
            last = time.process_time() - cpu
            writing += time.perf_counter() - begin if rank else 0.0
    assert sum(lengths) == sum(parameter.numel() for parameter in model.parameters())
    print(
        f"ZeRO 1 on {run.gpus:,} ranks: {sum(lengths):,} parameters, each once; a rank has "
        f"{min(lengths):,} to {max(lengths):,} and writes {12 * max(lengths) / 1e6:.2f} MB; "
        f"groups {1000 * grid_seconds:.0f} ms, plan and copy {1e6 * planning / run.gpus:.0f} µs, "
        f"file and manifest {1000 * writing / (run.gpus - 1):.1f} ms a rank"
    )
    index, begin = (path / INDEX_NAME).stat().st_size, time.process_time()
    read = Index.read(path)
    reading = time.process_time() - begin
    data_bytes = len(state.model_dump_json())
    size = read.total_bytes
    print(
        f"rank 0: {run.gpus:,} manifests collected, checked and committed in {last:.2f} s; index "
        f"{index / 1e6:.2f} MB (data state {data_bytes / 1e6:.2f}) beside {size / 1e9:.2f} GB in "
        f"{len(read.files):,} files; read by a rank in {reading:.2f} s"
    )
    begin = time.process_time()
    assert verify_checkpoint(path, rank=5, world_size=run.gpus) is None
    verifying, begin = time.process_time() - begin, time.process_time()
    with CheckpointReader(path) as reader:
        files = {
            slice_.file
            for fragment in fragments
            for shard in reader.index.parameters[fragment.name].shards
            for slice_ in shard.slices
            if slice_.start < fragment.start + fragment.length
            and slice_.start + slice_.length > fragment.start
        }
        for fragment in fragments:
            ranges = fragment.spec.ranges(fragment.tensor_rank, fragment.tensor_size)
            for name in fragment.states:
                reader.shard_range(
                    fragment.name,
                    name,
                    ranges=ranges,
                    start=fragment.start,
                    length=fragment.length,
                )
    loading = time.process_time() - begin
    print(
        f"resuming: a rank verifies its share of files in {verifying:.2f} s, reads its slices from "
        f"{len(files)} file(s) in {loading:.2f} s, index included"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default=None, type=Path, help="where to write (local disk)")
    options = parser.parse_args()
    for run in RUNS:
        print_plan(run)
    print_refusals()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_base_manifests(Path(folder) / "shards")
        state = data_states(Path(folder) / "shards")
        save(state, Path(folder))


if __name__ == "__main__":
    main()
