"""Merging models of one architecture: TIES, linear, and exponentially weighted averages.

Decay variants that branched from one checkpoint are merged by TIES with that checkpoint as the
base; the checkpoints of one run are averaged. Parameters are read, merged and written one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mmbert.errors import UserError
from mmbert.hub.export import Dtype, write_hugging_face_folder
from mmbert.hub.model_source import CheckpointSource, ModelSource, open_model
from mmbert.hub.verification import LogitComparison
from mmbert.merging.methods import exponential_weights, ties, weighted_mean

Method = Literal["ties", "linear", "ema"]


@dataclass(frozen=True)
class MergeOptions:
    """How to merge. `weights`: one per model (empty: equal); `density`: the share of each
    difference that TIES keeps; `decay`: what an older checkpoint weighs beside the next (ema)."""

    method: Method
    weights: tuple[float, ...] = ()
    density: float = 0.5
    decay: float = 0.9


def merge_models(
    models: Sequence[Path],
    out: Path,
    options: MergeOptions,
    *,
    base: Path | None = None,
    dtype: Dtype = "float32",
) -> LogitComparison:
    """Merge checkpoints or Hugging Face folders into the Hugging Face folder `out`.

    `base` is what the models of a TIES merge branched from. The checkpoints of an exponentially
    weighted average are put in the order of their steps (Hugging Face folders stay as given,
    oldest first). The tokenizer and rotary bases are those of the last model; all must agree on
    them. `out` gets provenance.json with every model, its weight and the options, and is verified
    as an export is. UserError: fewer than two models, models that differ in sizes, bases or
    tokenizer, weights that do not match, TIES without a base or another method with one.
    """
    if len(models) < 2:
        raise UserError("a merge needs at least two models", remedy="name two or more")
    sources: list[ModelSource] = [open_model(path) for path in models]
    if options.method == "ema":
        sources = _by_step(sources)
    weights = _weights(sources, options)
    reference = _reference(base, options)
    for other in sources[:-1]:
        _check_compatible(other, sources[-1])
        if other.model.rotary_bases != sources[-1].model.rotary_bases:
            raise UserError(
                f"{other.path} and {sources[-1].path} differ in their rotary bases",
                remedy="merge models that ended in the same phase",
            )
    if reference is not None:
        _check_compatible(reference, sources[-1])
    combine = _merge_function(weights, options, reference)

    def parameters() -> Iterator[tuple[str, Tensor]]:
        for name in sources[-1].shapes:
            yield name, combine(name, [source.read(name) for source in sources])

    return write_hugging_face_folder(
        out,
        name=out.name,
        model=sources[-1].model,
        parameters=parameters(),
        special_ids=sources[-1].special_ids,
        tokenizer=sources[-1].tokenizer,
        dtype=dtype,
        provenance=_provenance(sources, weights, options, reference),
        language_tokens=_language_tokens(sources, options, reference),
        recipe=None,
    )


def _by_step(sources: list[ModelSource]) -> list[ModelSource]:
    """Checkpoints of one run by their steps; folders in the order given."""
    if not all(isinstance(source, CheckpointSource) for source in sources):
        return sources
    return sorted(sources, key=lambda source: int(source.provenance["step"]))


def _weights(sources: Sequence[ModelSource], options: MergeOptions) -> list[float]:
    if options.method == "ema":
        if options.weights:
            raise UserError(
                "an exponentially weighted average takes its weights from the decay",
                remedy="leave the weights out, or merge with method linear",
            )
        return exponential_weights(len(sources), options.decay)
    weights = list(options.weights) or [1.0] * len(sources)
    if len(weights) != len(sources):
        raise UserError(
            f"{len(weights)} weights for {len(sources)} models",
            remedy="give one weight for each model, in their order",
        )
    if min(weights) <= 0:
        raise UserError(f"a weight of {min(weights):g}", remedy="weights must be positive")
    return weights


def _reference(base: Path | None, options: MergeOptions) -> ModelSource | None:
    if options.method != "ties":
        if base is not None:
            raise UserError(
                f"method {options.method} has no use for a base", remedy="leave the base out"
            )
        return None
    if base is None:
        raise UserError(
            "a TIES merge needs the model that the others branched from",
            remedy="name it with --base: the checkpoint at the end of the phase before",
        )
    return open_model(base)


def _check_compatible(one: ModelSource, other: ModelSource) -> None:
    """The architecture decides what a weight means; the tokenizer what a row does."""
    for what, first, second in (
        ("sizes", one.shapes, other.shapes),
        ("local window", one.model.encoder.local_window, other.model.encoder.local_window),
        (
            "global layers",
            one.model.encoder.global_attention_every,
            other.model.encoder.global_attention_every,
        ),
        ("special tokens", one.special_ids, other.special_ids),
        ("tokenizers", _tokenizer_bytes(one), _tokenizer_bytes(other)),
    ):
        if first != second:
            raise UserError(
                f"{one.path} and {other.path} differ in their {what}",
                remedy="only models of one architecture and tokenizer can be merged",
            )


def _tokenizer_bytes(source: ModelSource) -> bytes:
    return (source.tokenizer / "tokenizer.json").read_bytes()


def _merge_function(
    weights: Sequence[float], options: MergeOptions, reference: ModelSource | None
) -> Callable[[str, list[Tensor]], Tensor]:
    def combine(name: str, tensors: list[Tensor]) -> Tensor:
        if reference is None:
            return weighted_mean(tensors, weights)
        return ties(reference.read(name), tensors, weights, options.density)

    return combine


def _provenance(
    sources: Sequence[ModelSource],
    weights: Sequence[float],
    options: MergeOptions,
    reference: ModelSource | None,
) -> dict[str, Any]:
    provenance: dict[str, Any] = {
        "kind": "merge",
        "method": options.method,
        "models": [
            {"weight": weight, **source.provenance}
            for weight, source in zip(weights, sources, strict=True)
        ],
    }
    if reference is not None:
        provenance |= {"density": options.density, "base": reference.provenance}
    if options.method == "ema":
        provenance["decay"] = options.decay
    return provenance


def _language_tokens(
    sources: Sequence[ModelSource], options: MergeOptions, reference: ModelSource | None
) -> dict[str, int]:
    """All training tokens that went into the merge, by language, where the checkpoints tell.

    An average over one run has seen what its newest checkpoint has; variants of one base have
    seen the base's text once and each its own since. Anything else is not known: empty.
    """
    counts = [
        source.index.state.language_tokens
        for source in [*sources, *([] if reference is None else [reference])]
        if isinstance(source, CheckpointSource)
    ]
    if options.method == "ema" and len(counts) == len(sources):
        return dict(counts[-1])
    if reference is None or len(counts) <= len(sources):
        return {}
    *variants, base = counts
    languages = set(base).union(*variants)
    return {
        language: base.get(language, 0)
        + sum(max(0, own.get(language, 0) - base.get(language, 0)) for own in variants)
        for language in languages
    }
