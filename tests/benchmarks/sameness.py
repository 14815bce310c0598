"""Differences between our logits and those of transformers at the presets' real sizes.

The tests make the same comparison with small models. This prints the largest differences for the
presets with a vocabulary of 256,000: in float32, packed (sdpa) and document by document (sdpa and
eager). Then, with weights so large that 22 layers magnify every rounding error, the errors of both
in bfloat16 relative to float64 (not in float32: transformers applies RoPE in float32 even in
float64 models). Weights are random and perturbed, so that none is without effect.

    python -m tests.benchmarks.sameness --presets small base     # some minutes and 10 GB
"""

import argparse
import gc
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmbert.model.config import encoder_config
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.recipe import ModelSettings, RotaryBases
from tests.model.test_transformers_parity import (
    packed_reference_logits,
    reference_model,
    relative_difference,
)
from tests.support.tiny_models import OUTPUT_SCALE, WEIGHT_SCALE, random_row, tiny_model
from tests.support.transformers_versions import load_in

VOCABULARY = 256_000
# The first is longer than the local window of 64 to each side.
DOCUMENTS = (150, 40, 9, 1)
BASES = RotaryBases.model_validate({"global": 160_000.0, "local": 10_000.0})
ROW = random_row(documents=DOCUMENTS, vocab_size=VOCABULARY)


def calm(model: MaskedLanguageModel, factor: float = 2.0) -> None:
    """Rescale the weights to `factor` times their initial scale, as after some training."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                scale = OUTPUT_SCALE if name.endswith("Wo.weight") else WEIGHT_SCALE
                parameter.mul_(factor / scale)


def our_logits(model: MaskedLanguageModel) -> Tensor:
    return model.logits(ROW, rotary_bases=BASES, all_tokens=True)


def by_document(reference: PreTrainedModel, ours: Tensor) -> float:
    """Return the largest difference over documents passed to transformers one at a time."""
    worst = 0.0
    for start, stop in pairwise(ROW.cu_seqlens.tolist()):
        if stop > start:
            with torch.no_grad():
                alone = reference(input_ids=ROW.input_ids[None, start:stop]).logits[0]
            worst = max(worst, relative_difference(ours[start:stop], alone))
    return worst


def error_ratio(model: MaskedLanguageModel) -> float:
    """Return the ratio of our bfloat16 error relative to float64 to that of transformers."""
    model = model.to(torch.bfloat16)
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    exact, window = reference_model(model.config, BASES, weights, "sdpa"), model.config.local_window
    with tempfile.TemporaryDirectory() as folder:
        exact.save_pretrained(folder)
        # Loaded, not cast: casting would round its rotary frequencies too.
        theirs = load_in(Path(folder), torch.bfloat16)
    truth = packed_reference_logits(exact.double(), ROW, window)
    their_error = (packed_reference_logits(theirs, ROW, window) - truth).norm()
    return float((our_logits(model) - truth).norm() / their_error)


def measure(preset: str) -> None:
    """Print the differences for a preset."""
    config = encoder_config(ModelSettings.model_validate({"preset": preset}), VOCABULARY)
    model = tiny_model(config)
    calm(model)
    ours = our_logits(model)
    for attention in ("sdpa", "eager"):
        reference = reference_model(config, BASES, dict(model.state_dict()), attention)
        found = [f"documents alone {by_document(reference, ours):.1e}"]
        if attention == "sdpa":  # the packed masks are for this one
            packed = packed_reference_logits(reference, ROW, config.local_window)
            found.append(f"packed {relative_difference(ours, packed):.1e}")
        print(f"{preset}, float32, {attention}: {', '.join(found)} of the largest logit")
    del reference, packed, ours
    gc.collect()
    print(f"{preset}, bfloat16: our error is {error_ratio(tiny_model(config)):.2f} times theirs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    presets = ["small", "base", "large", "huge"]
    parser.add_argument("--presets", nargs="+", default=["small", "base"], choices=presets)
    for preset in parser.parse_args().presets:
        measure(preset)
        gc.collect()


if __name__ == "__main__":
    main()
