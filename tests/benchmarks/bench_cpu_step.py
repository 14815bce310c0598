"""Training step on a CPU: this package's packed model compared with transformers' ModernBERT.

Both train the same architecture from the same weights on the same documents with the same masks,
threads, dtype and optimizer (fused AdamW), and take an optimizer step after the same documents.
transformers runs with sdpa attention and sparse prediction, padded to the longest document of a
batch, at the fastest of the batch sizes 1, 4, 8 and 16; smaller batches accumulate. The process
reuses freed memory for both, as our training does on a CPU. Neither uses dropout, because
transformers' ModernBERT has none where ours has it. Before the measurement the losses of a step are
compared. Figures are real tokens (no padding) per second, the best of several interleaved
repetitions.

    python tests/benchmarks/bench_cpu_step.py                  # everything, some 20 minutes
    python tests/benchmarks/bench_cpu_step.py --vocabularies 32768 --contexts 512 --repeats 2
"""

import argparse
import gc
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmbert.model.config import EncoderConfig
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.process_grid import TensorGroup
from mmbert.recipe import RotaryBases
from mmbert_kernels import keep_freed_memory
from tests.support.packed_rows import web_lengths

BATCH_SIZES = (1, 4, 8, 16)
MASK_RATIO = 0.3
IGNORED = -100
# Required speedup over transformers.
WANTED = {"random order": 2.0, "sorted by length": 1.3, "equal lengths": 1.0}


@dataclass(frozen=True)
class Document:
    """A masked document: input ids, and labels of masked tokens (-100 elsewhere)."""

    input_ids: Tensor
    labels: Tensor


def make_documents(
    generator: np.random.Generator, lengths: list[int], vocabulary: int
) -> list[Document]:
    """Create documents of these lengths with Zipf-distributed tokens."""
    documents = []
    for length in lengths:
        ids = torch.from_numpy(np.minimum(generator.zipf(1.2, length) + 4, vocabulary - 1))
        chosen = torch.from_numpy(generator.permutation(length)[: round(MASK_RATIO * length)])
        labels = torch.full_like(ids, IGNORED)
        labels[chosen] = ids[chosen]
        documents.append(Document(ids.index_fill(0, chosen, 4), labels))
    return documents


def pack(documents: list[Document]) -> PackedBatch:
    """Pack all documents of a step into one row."""
    lengths = [len(document.input_ids) for document in documents]
    labels = torch.cat([document.labels for document in documents])
    positions = (labels != IGNORED).nonzero()[:, 0]
    return PackedBatch(
        input_ids=torch.cat([document.input_ids for document in documents]),
        cu_seqlens=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        max_seqlen=max(lengths),
        masked_positions=positions,
        labels=labels[positions],
        weights=torch.ones(len(positions)),
        row_index=0,
    )


def pad(documents: list[Document]) -> dict[str, Tensor]:
    """Return a padded batch for transformers."""
    length = max(len(document.input_ids) for document in documents)
    shape = (len(documents), length)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "labels": torch.full(shape, IGNORED),
    }
    for row, document in enumerate(documents):
        end = len(document.input_ids)
        batch["input_ids"][row, :end] = document.input_ids
        batch["attention_mask"][row, :end] = 1
        batch["labels"][row, :end] = document.labels
    return batch


def build(vocabulary: int, context: int, dtype: torch.dtype) -> tuple[torch.nn.Module, ...]:
    """Create this package's model and transformers' with the same weights."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = EncoderConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1152,
        num_hidden_layers=6,
        num_attention_heads=6,
        attention_output_dropout=0.0,
    )
    ours = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    initialize_parameters(ours, seed=21)
    theirs = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=vocabulary,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=context,
            global_rope_theta=160_000.0,
            local_rope_theta=10_000.0,
            sparse_prediction=True,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=1,
            cls_token_id=2,
            sep_token_id=1,
            attn_implementation="sdpa",
        )
    )
    result = theirs.load_state_dict(ours.state_dict(), strict=False)
    if result.unexpected_keys or set(result.missing_keys) - {"decoder.weight"}:
        raise RuntimeError(f"the two models differ: {result}")
    return ours.to(dtype).train(), theirs.to(dtype).train()


class Trainer:
    """A model with its optimizer."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(self, documents: list[Document], batch_size: int | None) -> float:
        """Run forward, backward and update, and return the documents' mean loss.

        `batch_size`: None for the packed model.
        """
        masked = sum(int((document.labels != IGNORED).sum()) for document in documents)
        if batch_size is None:
            losses = self.model(
                pack(documents),
                rotary_bases=RotaryBases.model_validate({"global": 160_000.0, "local": 10_000.0}),
                dropout_seed=None,
            )
            loss = losses.sum() / masked
            loss.backward()
            total = loss.item()
        else:
            total = 0.0
            for first in range(0, len(documents), batch_size):
                batch = pad(documents[first : first + batch_size])
                share = int((batch["labels"] != IGNORED).sum()) / masked
                loss = self.model(**batch).loss * share
                loss.backward()
                total += loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total


def seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    gc.collect()
    start = clock()
    call()
    return clock() - start


def require_same_loss(ours: Trainer, theirs: Trainer, documents: list[Document]) -> None:
    """Raise RuntimeError unless the losses of the first step agree (later ones may diverge)."""
    losses = ours.step(documents, None), theirs.step(documents, 8)
    if abs(losses[0] - losses[1]) > 2e-3 * losses[1]:
        raise RuntimeError(f"the two models' losses differ: {losses}")


def compare(
    ours: Trainer,
    theirs: Trainer,
    documents: list[Document],
    repeats: int,
    clock: Callable[[], float],
) -> tuple[float, float, int]:
    """Return real tokens per second of both on one step's documents, and the fastest batch size."""
    tokens = sum(len(document.input_ids) for document in documents)
    ours.step(documents, None)
    theirs_by_size = {
        size: seconds(lambda size=size: theirs.step(documents, size), clock)  # type: ignore[misc]
        for size in BATCH_SIZES
    }
    fastest = min(theirs_by_size, key=theirs_by_size.__getitem__)
    best_ours, best_theirs = float("inf"), theirs_by_size[fastest]
    for _ in range(repeats):
        best_ours = min(best_ours, seconds(lambda: ours.step(documents, None), clock))
        best_theirs = min(best_theirs, seconds(lambda: theirs.step(documents, fastest), clock))
    return tokens / best_ours, tokens / best_theirs, fastest


def main() -> int:
    """Run the comparison and print a table; return 1 if a required ratio was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_768, 256_000])
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--tokens", type=int, default=4096, help="real tokens of a step, about")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--kinds", nargs="+", choices=list(WANTED), default=list(WANTED))
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure CPU time instead of wall time, for one thread on a shared machine",
    )
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    print(
        f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}, "
        f"{arguments.dtype}; d 384, f 1152, 6 layers, 6 heads, {MASK_RATIO:.0%} masked"
    )
    print("vocabulary context documents          ours   transformers (batch)   ratio  wanted")
    missed = False
    for vocabulary in arguments.vocabularies:
        for context in arguments.contexts:
            models = build(vocabulary, context, getattr(torch, arguments.dtype))
            ours, theirs = (Trainer(model) for model in models)
            for kind in arguments.kinds:
                generator = np.random.default_rng(21)
                lengths = web_lengths(generator, context, arguments.tokens)
                if kind == "sorted by length":
                    lengths.sort()
                elif kind == "equal lengths":
                    lengths = [context] * (arguments.tokens // context)
                documents = make_documents(generator, lengths, vocabulary)
                if kind == arguments.kinds[0]:
                    require_same_loss(ours, theirs, documents)
                speeds = compare(ours, theirs, documents, arguments.repeats, clock)
                ratio = speeds[0] / speeds[1]
                missed |= ratio < WANTED[kind]
                print(
                    f"{vocabulary:10} {context:7} {kind:16} {speeds[0]:9.0f} {speeds[1]:14.0f} "
                    f"({speeds[2]:5}) {ratio:7.2f} {WANTED[kind]:7.1f}",
                    flush=True,
                )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
