"""Merging of models with the same architecture: TIES, linear, exponentially weighted average.

Use TIES for variants that branched from one checkpoint, with that checkpoint as the base, and an
average for the checkpoints of one run. Parameters are read, merged and written one at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mmbert.data.shards.tokenizer_function import different_part
from mmbert.errors import ArgumentError, ModelError
from mmbert.hub.export import Dtype, write_hugging_face_folder
from mmbert.hub.model_source import CheckpointSource, ModelSource, open_model, refuse_causal
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.verification import LogitComparison
from mmbert.merging.methods import exponential_weights, ties, weighted_mean

Method = Literal["ties", "linear", "ema"]


@dataclass(frozen=True)
class MergeOptions:
    """Method and parameters of a merge.

    Attributes:
        method: ties, linear or ema (exponentially weighted average).
        weights: one per model; empty means equal.
        density: fraction of each difference that TIES keeps.
        decay: weight of a checkpoint relative to the next newer one (ema).
    """

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
    say: Callable[[str], None] = lambda line: None,
    allow_causal: bool = False,
) -> LogitComparison:
    """Merge checkpoints or Hugging Face folders into the Hugging Face folder `out`.

    All models must have the same architecture, tokenizer and rotary bases. `out` includes a
    provenance.json with every model, its weight and the options, and is verified like an export.

    Args:
        models: the models to merge, for method ema oldest first; checkpoints are sorted by step.
        out: the folder to write.
        options: method and parameters.
        base: common ancestor of the models, for a TIES merge.
        dtype: data type of the weights.
        say: is told what the tokenizers have saved that is not used.
        allow_causal: merge also models whose last phase was causal.

    Raises:
        UserError: fewer than two models, incompatible models, a wrong number of weights, TIES
            without a base, or another method with one.
    """
    if len(models) < 2:
        raise ArgumentError("a merge needs at least two models", remedy="give two or more")
    sources: list[ModelSource] = [open_model(path) for path in models]
    if options.method == "ema":
        sources = _by_step(sources)
    weights = _weights(sources, options)
    reference = _reference(base, options)
    if not allow_causal:
        for source in sources:
            refuse_causal(source)
    for other in sources[:-1]:
        if other.model.objective != sources[-1].model.objective:
            raise ModelError(
                f"{other.path} and {sources[-1].path} ended in phases of different objectives",
                remedy="merge models that ended in the same phase",
            )
        check_compatible(other, sources[-1])
        if other.model.rotary_bases != sources[-1].model.rotary_bases:
            raise ModelError(
                f"{other.path} and {sources[-1].path} have different rotary bases",
                remedy="merge models that ended in the same phase",
            )
    if reference is not None:
        check_compatible(reference, sources[-1])
    given = [FastTokenizer(one.tokenizer).set_aside for one in (*sources, reference) if one]
    said = dict.fromkeys(line for line in given if line is not None)
    for line in said:
        say(line)
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
        say=lambda line: None if line in said else say(line),
    )


def _by_step(sources: list[ModelSource]) -> list[ModelSource]:
    """Sort checkpoints by step; leave Hugging Face folders in the given order."""
    if not all(isinstance(source, CheckpointSource) for source in sources):
        return sources
    return sorted(sources, key=lambda source: int(source.provenance["step"]))


def _weights(sources: Sequence[ModelSource], options: MergeOptions) -> list[float]:
    if options.method == "ema":
        if options.weights:
            raise ArgumentError(
                "method ema takes no weights: they follow from the decay",
                remedy="omit the weights, or use method linear",
            )
        return exponential_weights(len(sources), options.decay)
    weights = list(options.weights) or [1.0] * len(sources)
    if len(weights) != len(sources):
        raise ArgumentError(
            f"{len(weights)} weights for {len(sources)} models",
            remedy="give one weight per model, in the same order",
        )
    if min(weights) <= 0:
        raise ArgumentError(
            f"weight {min(weights):g} is not positive", remedy="give positive weights"
        )
    return weights


def _reference(base: Path | None, options: MergeOptions) -> ModelSource | None:
    if options.method != "ties":
        if base is not None:
            raise ArgumentError(f"method {options.method} takes no base", remedy="omit the base")
        return None
    if base is None:
        raise ArgumentError(
            "method ties requires the model that the others branched from",
            remedy="give it as --base: the checkpoint at the end of the preceding phase",
        )
    return open_model(base)


def check_compatible(one: ModelSource, other: ModelSource) -> None:
    """Raise UserError unless architecture and tokenizer of the two models are the same."""
    for what, first, second in (
        ("sizes", one.shapes, other.shapes),
        ("local window", one.model.encoder.local_window, other.model.encoder.local_window),
        (
            "global layers",
            one.model.encoder.global_attention_every,
            other.model.encoder.global_attention_every,
        ),
        ("special tokens", one.special_ids, other.special_ids),
    ):
        if first != second:
            raise ModelError(
                f"{one.path} and {other.path} have different {what}",
                remedy="merge only models with the same architecture and tokenizer",
            )
    _check_tokenizers(one, other)


def _check_tokenizers(one: ModelSource, other: ModelSource) -> None:
    part = different_part(one.tokenizer, one.special_ids, other.tokenizer, other.special_ids)
    if part is not None:
        raise ModelError(
            f"{one.path} and {other.path} have different tokenizers: {part}",
            remedy="merge only models with the same architecture and tokenizer",
        )


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
    """Return the training tokens of the merge by language; empty if unknown.

    An average over one run has the tokens of its newest checkpoint. A TIES merge has the tokens of
    the base and those of each variant since.
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
