"""Comparison with MosaicML Streaming and Megatron-LM on the same tokens and machine.

    python -m tests.benchmarks.bench_data_comparison --python OTHER/bin/python

OTHER is a separate environment with mosaicml-streaming (it pins older numpy and transformers)
and megatron-core, both with torch. All three read the same documents of 60 languages, blended in
proportion to n ** 0.7, in one process, and report tokens per CPU-second and the seconds until the
first token. Here, whole documents are packed into rows of 49,152 tokens and masked. Megatron's
blended dataset concatenates documents and cuts samples of 1,024 tokens; Streaming returns one
document per sample. Both leave packing of whole documents and masking to their users.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmbert.data.loading.loader import RowLoader
from mmbert.data.shards.corpus import open_corpus
from mmbert.schedule import training_plan
from tests.benchmarks.bench_data import bench_recipe
from tests.support.generated_corpora import real_corpus

CONTEXT, STREAMS = 1024, 96

MEGATRON = """
import json, sys, time, tempfile, logging, warnings
warnings.filterwarnings("ignore")
paths, weights, samples = json.loads(sys.argv[1])
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
class Tokenizer:
    unique_identifiers = {"class": "none"}
    eod = 1
    pad = 0
    vocab_size = 256000
begin = time.perf_counter()
with tempfile.TemporaryDirectory() as cache:
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=1024, blend=(paths, weights), split="1,0,0",
        path_to_cache=cache, tokenizer=Tokenizer(), reset_position_ids=False,
        reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
    )
    dataset = BlendedMegatronDatasetBuilder(
        GPTDataset, [samples, 0, 0], lambda: True, config
    ).build()[0]
    dataset[0]
    start = time.perf_counter() - begin
    for number in range(200):
        dataset[number]
    cpu = time.process_time()
    tokens = sum(len(dataset[number]["tokens"]) for number in range(200, samples))
    print(json.dumps([tokens / (time.process_time() - cpu), start]))
"""

STREAMING = """
import json, sys, time, warnings, logging
warnings.filterwarnings("ignore")
prefixes, weights, samples, folder = json.loads(sys.argv[1])
import numpy as np
from pathlib import Path
from streaming import MDSWriter, Stream, StreamingDataset
for number, prefix in enumerate(prefixes):
    index = np.fromfile(prefix + ".idx", dtype=np.uint8)
    count = int(index[18:26].view("<u8")[0])
    ends = np.cumsum(index[34:34 + 4 * count].view("<i4"))
    tokens = np.fromfile(prefix + ".bin", dtype=np.int32)
    with MDSWriter(out=f"{folder}/{number}", columns={"input_ids": "ndarray:int32"}) as writer:
        for start, end in zip(np.append(0, ends), ends):
            writer.write({"input_ids": tokens[start:end]})
total = sum(weights)
begin = time.perf_counter()
dataset = StreamingDataset(
    streams=[
        Stream(local=f"{folder}/{n}", proportion=w / total) for n, w in enumerate(weights)
    ],
    shuffle=True, batch_size=1, epoch_size=samples,
)
iterator = iter(dataset)
next(iterator)
start = time.perf_counter() - begin
for _ in range(200):
    next(iterator)
cpu = time.process_time()
tokens = 0
for sample in iterator:
    tokens += len(sample["input_ids"])
print(json.dumps([tokens / (time.process_time() - cpu), start]))
"""


def child(python: Path, program: str, arguments: object) -> tuple[float, float]:
    """Run a program; returns tokens per CPU-second and seconds to the first token."""
    result = subprocess.run(
        [python, "-c", program, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if result.returncode:
        raise SystemExit(result.stderr[-2000:])
    rate, start = json.loads(result.stdout.strip().splitlines()[-1])
    return rate, start


def ours(shards: Path, tokens: int) -> tuple[float, float]:
    """Measure the same for packed, masked rows of this package."""
    begin = time.perf_counter()
    corpus = open_corpus(shards)
    recipe = bench_recipe(CONTEXT, STREAMS)
    iterator = iter(RowLoader(corpus, recipe, training_plan(recipe)))
    next(iterator)
    start = time.perf_counter() - begin
    for _ in range(2 * STREAMS):  # each stream has begun: what follows is the steady pace
        next(iterator)
    cpu = time.process_time()
    read = 0
    while read < tokens:
        read += next(iterator).tokens
    return read / (time.process_time() - cpu), start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    options = parser.parse_args()
    for mean in (50, 1000):
        with tempfile.TemporaryDirectory() as folder:
            shards = Path(folder) / "shards"
            corpus = real_corpus(
                shards, tokens=options.tokens, mean_length=mean, languages=60, context=CONTEXT
            )
            prefixes = [str(c.folder / "train-00000") for c in corpus.components]
            weights = [c.manifest.train.tokens**0.7 for c in corpus.components]
            read = options.tokens // 2
            results = {
                "ours, packed and masked": ours(shards, read),
                "Megatron-LM blended dataset": child(
                    options.python, MEGATRON, [prefixes, weights, read // 1024]
                ),
                "MosaicML Streaming": child(
                    options.python, STREAMING, [prefixes, weights, read // mean, folder]
                ),
            }
        own = results["ours, packed and masked"][0]
        for name, (rate, start) in results.items():
            print(
                f"mean length {mean:5d}  {name:28s} {rate / 1e6:7.2f} million tokens/s per core, "
                f"first token after {start:5.2f} s   ours is {own / rate:5.1f} times as fast",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
