"""Memory and time of recomputation: memory by formula and measured, and time per step.

One row of packed documents, forward and backward, with dropout. On a GPU the preset itself runs in
bfloat16; on a CPU a few layers of its width run in float32. The peak is the allocator's. Times are
the minimum of several interleaved repetitions (processor time on a CPU, which other programs may
share).

    python tests/benchmarks/bench_recompute.py                       # base: about 3 minutes on CPU
    python tests/benchmarks/bench_recompute.py --preset large --tokens 49152      # on a GPU
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from mmbert.model.activation_memory import activation_memory
from mmbert.model.config import EncoderConfig, encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.process_grid import TensorGroup
from mmbert.recipe import ModelSettings, RotaryBases

RECOMPUTE = ("none", "selective", "full")
BASES = RotaryBases.model_validate({"global": 160_000.0, "local": 160_000.0})
DOCUMENT = 1024
MASK_RATIO = 0.3


def row_of(tokens: int, vocabulary: int, device: str) -> PackedBatch:
    """Create a row of equally long documents with a fraction of the tokens masked."""
    generator = torch.Generator().manual_seed(0)
    masked = round(MASK_RATIO * tokens)
    ends = torch.arange(0, tokens + 1, min(DOCUMENT, tokens), dtype=torch.int32)
    return PackedBatch(
        input_ids=torch.randint(vocabulary, (tokens,), generator=generator),
        cu_seqlens=ends,
        max_seqlen=min(DOCUMENT, tokens),
        masked_positions=torch.randperm(tokens, generator=generator)[:masked].sort().values,
        labels=torch.randint(vocabulary, (masked,), generator=generator),
        weights=torch.ones(masked),
        row_index=0,
    ).to(device)


def build(config: EncoderConfig, device: str) -> MaskedLanguageModel:
    """Create the model with allocated gradients, so that they are not counted as activations."""
    with torch.device(device):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    initialize_parameters(model, seed=21)
    if device == "cuda":
        model = model.to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """Measure the peak memory of one step above the memory before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest


def seconds(step: Callable[[], None], device: str) -> float:
    """Measure the time of one step."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="base", choices=["small", "base", "large", "huge"])
    parser.add_argument("--tokens", type=int, help="of a row; 49152 on a GPU, 2048 on a CPU")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = arguments.tokens or (49_152 if device == "cuda" else 2048)
    settings = ModelSettings.model_validate({"preset": arguments.preset})
    config = encoder_config(settings, 256_000)
    if device == "cpu":
        config = replace(config, num_hidden_layers=4, vocab_size=8192)
    row = row_of(tokens, config.vocab_size, device)

    def step_of(recompute: str) -> Callable[[], None]:
        model = build(replace(config, recompute=recompute), device)

        def step() -> None:
            model(row, rotary_bases=BASES, dropout_seed=3).sum().backward()

        return step

    steps = {recompute: step_of(recompute) for recompute in RECOMPUTE}
    for step in steps.values():
        step()  # compiles and fills caches
    peaks = {recompute: peak_bytes(step, device) for recompute, step in steps.items()}
    times = {
        recompute: min(seconds(step, device) for _ in range(arguments.repeats))
        for recompute, step in steps.items()
    }
    element_size = 2 if device == "cuda" else 4
    print(
        f"{arguments.preset}, {config.num_hidden_layers} layers, vocabulary {config.vocab_size}, "
        f"{tokens} tokens, {device}"
    )
    for recompute in RECOMPUTE:
        memory = activation_memory(
            replace(config, recompute=recompute),
            row_tokens=tokens,
            masked_tokens=len(row.labels),
            element_size=element_size,
        )
        print(
            f"{recompute:10} kept by layers {memory.layers / 2**20:9.1f} MiB (formula)   "
            f"peak {memory.peak / 2**20:9.1f} MiB (formula) {peaks[recompute] / 2**20:9.1f} MiB "
            f"(measured)   time x {times[recompute] / times['none']:.2f}"
        )


if __name__ == "__main__":
    main()
