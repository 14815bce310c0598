"""Tiny encoders and rows of random documents."""

import torch

from mmbert.model.config import EncoderConfig
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.process_grid import TensorGroup
from mmbert.recipe import RotaryBases

# At their first sizes attention is nearly uniform, and what the layers add would hardly show.
WEIGHT_SCALE = 5
OUTPUT_SCALE = 20
BASES = RotaryBases.model_validate({"global": 20_000.0, "local": 300.0})


def tiny_config(**changes: object) -> EncoderConfig:
    """Return a configuration with four heads and four layers: two global, two of window ±8."""
    sizes = {
        "vocab_size": 131,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "local_window": 16,
    }
    return EncoderConfig(**(sizes | changes))  # type: ignore[arg-type]


def random_row(
    *,
    documents: tuple[int, ...] = (45, 7, 60, 1, 15),
    masked: int = 32,
    vocab_size: int = 131,
    row_index: int = 5,
    seed: int = 0,
) -> PackedBatch:
    """Build a row of random documents of these lengths; its last two mask slots are unused."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(documents)
    ends = torch.tensor((0, *documents)).cumsum(0)
    positions = torch.randperm(tokens, generator=generator)[:masked].sort().values
    weights = torch.ones(masked)
    weights[-2:] = 0
    positions[-2:] = positions[-3]
    return PackedBatch(
        input_ids=torch.randint(vocab_size, (tokens,), generator=generator),
        # Padded with empty documents to a fixed length, as the loader does.
        cu_seqlens=torch.cat([ends, ends[-1:].repeat(3)]).to(torch.int32),
        max_seqlen=max(documents),
        masked_positions=positions,
        labels=torch.randint(vocab_size, (masked,), generator=generator),
        weights=weights,
        row_index=row_index,
    )


def tiny_model(
    config: EncoderConfig | None = None,
    group: TensorGroup | None = None,
    *,
    sequence_parallel: bool = False,
    seed: int = 21,
) -> MaskedLanguageModel:
    """Build an initialized model; norms and output layers are perturbed to expose errors."""
    model = MaskedLanguageModel(
        config or tiny_config(),
        group or TensorGroup.single(),
        sequence_parallel=sequence_parallel,
    )
    initialize_parameters(model, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "norm" in name:
                generator = torch.Generator().manual_seed(len(name) + seed)
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("Wo.weight"):
                parameter.mul_(OUTPUT_SCALE)
            elif parameter.ndim == 2:
                parameter.mul_(WEIGHT_SCALE)
    return model
