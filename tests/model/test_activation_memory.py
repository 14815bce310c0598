"""Activation memory by formula, compared with the bytes measured for small models.

On a CPU attention is of the flash type, as on a GPU; the other operations run in plain PyTorch,
which saves a little more than the fused kernels do (`reference_extras`; for the fused kernels see
test_fused_kernels.py). On a GPU the allocator's peak is measured.
"""

import gc
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mmbert.model.activation_memory import LOGITS_CHUNK_BYTES, activation_memory
from mmbert.model.config import EncoderConfig
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.process_grid import TensorGroup, build_grid
from mmbert_kernels.cross_entropy.linear_cross_entropy import CHUNK_BYTES
from tests.support.ranks import run_ranks
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

FLOAT32 = 4
DOCUMENTS, MASKED = (128, 64, 128), 48
RECOMPUTE = ["none", "selective", "full"]


def config_of(recompute: str, **changes: object) -> EncoderConfig:
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3}
    return tiny_config(**(sizes | {"recompute": recompute} | changes))


def row_of(config: EncoderConfig, documents: tuple[int, ...] = DOCUMENTS) -> PackedBatch:
    return random_row(documents=documents, masked=MASKED, vocab_size=config.vocab_size)


def allocations(function: Callable[[], object]) -> tuple[int, int]:
    """Measure the CPU allocator's live bytes and their peak."""
    gc.collect()  # so that garbage of earlier tests is not freed during the measurement
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        outcome = function()
        gc.collect()  # Triton's interpreter leaves cycles
    results = recorded.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    del outcome
    return live, highest


def kept_bytes(model: MaskedLanguageModel, row: PackedBatch) -> int:
    """Return the bytes allocated by a forward pass that are still alive at its end."""

    def forward() -> Tensor:
        return model(row, rotary_bases=BASES, dropout_seed=3)

    forward()  # fills caches, which are not counted
    return allocations(forward)[0]


def predicted(config: EncoderConfig, tokens: int) -> dict[str, int]:
    memory = activation_memory(
        config, row_tokens=tokens, masked_tokens=MASKED, element_size=FLOAT32
    )
    return {"kept": memory.kept, "forward": memory.forward_peak, "backward": memory.backward_peak}


def reference_layer_extras(config: EncoderConfig, tokens: int, ranks: int, shards: int) -> int:
    """Return the bytes that plain PyTorch saves for a layer beyond the fused kernels."""
    gelu_output = tokens * config.intermediate_size * FLOAT32 // ranks
    dropout_mask = tokens * config.hidden_size // shards
    rotation_tables = tokens * config.head_size * FLOAT32
    document_numbers = tokens * 8
    return gelu_output + dropout_mask + rotation_tables + document_numbers


def reference_extras(config: EncoderConfig, tokens: int, ranks: int = 1, shards: int = 1) -> int:
    """Return the same for the model: layers (unless recomputed), and the embedding's rows."""
    layers = config.num_hidden_layers * reference_layer_extras(config, tokens, ranks, shards)
    # With a sharded table the formula counts the rows; this rank's indices are saved too.
    embedding = tokens * config.hidden_size * FLOAT32 if ranks == 1 else tokens * (8 + 1)
    return embedding + (layers if config.recompute != "full" else 0)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_what_is_kept_is_what_the_formula_says(recompute: str) -> None:
    config, tokens = config_of(recompute), sum(DOCUMENTS)
    kept = kept_bytes(tiny_model(config), row_of(config))
    expected = predicted(config, tokens)["kept"] + reference_extras(config, tokens)
    assert kept == pytest.approx(expected, rel=0.01)


def saved_on_rank(rank: int, world_size: int, recompute: str, sequence_parallel: bool) -> int:
    """Return the bytes of storages saved by autograd in the layers, without parameters and the row.

    (gloo frees tensors in its own threads, where the allocator's record misses it.)
    """
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    group = build_grid(tensor_parallel=world_size).tensor
    config = config_of(recompute)
    model, row = tiny_model(config, group, sequence_parallel=sequence_parallel), row_of(config)
    known = {t.untyped_storage().data_ptr() for t in model.parameters()}
    known |= {t.untyped_storage().data_ptr() for t in vars(row).values() if isinstance(t, Tensor)}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.hidden_states(row, rotary_bases=BASES)
    del hidden
    return sum(saved.values())


@pytest.mark.parametrize(
    ("recompute", "sequence_parallel"), [("none", False), ("none", True), ("selective", True)]
)
def test_a_tensor_groups_rank_keeps_its_share(recompute: str, sequence_parallel: bool) -> None:
    config, tokens, shards = config_of(recompute), sum(DOCUMENTS), 2 if sequence_parallel else 1
    layers = activation_memory(
        config,
        row_tokens=tokens,
        masked_tokens=MASKED,
        tensor_parallel=2,
        sequence_parallel=sequence_parallel,
        element_size=FLOAT32,
    ).layers
    extras = reference_extras(config, tokens, ranks=2, shards=shards)
    no_dropout = config.num_hidden_layers * tokens * config.hidden_size // shards
    for saved in run_ranks(saved_on_rank, 2, recompute, sequence_parallel).values():
        assert saved == pytest.approx(layers + extras - no_dropout, rel=0.01)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_peaks_are_near_the_formula(recompute: str) -> None:
    config, tokens = config_of(recompute), sum(DOCUMENTS)
    model, row = tiny_model(config), row_of(config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    outcome: list[Tensor] = []

    def forward() -> None:
        outcome.append(model(row, rotary_bases=BASES, dropout_seed=3).sum())

    forward()
    outcome.clear()
    kept, forward_peak = allocations(forward)
    backward_peak = kept + allocations(lambda: outcome.pop().backward())[1]
    expected, extras = predicted(config, tokens), reference_extras(config, tokens)
    # Temporary tensors of one layer in plain PyTorch (with `full`, most of the peak).
    passing = reference_layer_extras(config, tokens, 1, 1) if recompute == "full" else 0
    tolerance = 0.15 if recompute == "full" else 0.05
    assert forward_peak == pytest.approx(expected["forward"] + extras + passing, rel=tolerance)
    assert backward_peak == pytest.approx(expected["backward"] + extras + passing, rel=tolerance)


def test_recomputation_keeps_the_promised_share_of_base() -> None:
    """Selective saves about 72%, full about 8% of the bytes without recomputation."""
    layers = {
        recompute: activation_memory(
            EncoderConfig(256_000, 768, 1152, 22, 12, recompute=recompute),  # type: ignore[arg-type]
            row_tokens=49_152,
            masked_tokens=14_746,
        ).layers
        for recompute in RECOMPUTE
    }
    assert layers["none"] / 2**30 == pytest.approx(19.4, abs=0.5)
    assert layers["selective"] / layers["none"] == pytest.approx(0.72, abs=0.01)
    assert layers["full"] / layers["none"] == pytest.approx(0.08, abs=0.01)


def test_the_formula_knows_the_chunks_of_the_cross_entropy() -> None:
    assert CHUNK_BYTES["cuda"] == LOGITS_CHUNK_BYTES


def test_sequence_parallelism_splits_what_tensor_parallelism_alone_does_not() -> None:
    config = EncoderConfig(256_000, 4096, 6144, 40, 64)
    kept = [
        activation_memory(
            config,
            row_tokens=49_152,
            masked_tokens=14_746,
            tensor_parallel=tensor_parallel,
            sequence_parallel=sequence_parallel,
        ).layers
        for tensor_parallel, sequence_parallel in [(1, False), (4, False), (4, True)]
    ]
    assert kept[2] == pytest.approx(kept[0] / 4, rel=0.01)
    assert kept[2] < 0.6 * kept[1]


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_peak_on_a_gpu(recompute: str) -> None:
    """In bfloat16 at a real width: the allocator's peak is within a tenth of the formula."""
    config = EncoderConfig(50_000, 768, 1152, 6, 12, recompute=recompute)  # type: ignore[arg-type]
    with torch.device("cuda"):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    initialize_parameters(model, 1)
    model = model.to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens, masked = 16_384, 2048
    row = random_row(documents=(2048,) * 8, masked=masked, vocab_size=50_000).to("cuda")
    slots = len(row.cu_seqlens) - 1
    expected = activation_memory(
        config, row_tokens=tokens, masked_tokens=masked, document_slots=slots
    )
    for _ in range(2):  # the first run compiles and allocates permanent workspaces
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss = model(row, rotary_bases=BASES, dropout_seed=3).sum()
        kept = torch.cuda.memory_allocated() - before
        loss.backward()
        peak = torch.cuda.max_memory_allocated() - before
    assert kept == pytest.approx(expected.kept, rel=0.05)
    assert peak == pytest.approx(expected.peak, rel=0.1)
