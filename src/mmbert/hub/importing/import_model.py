"""Import of a ModernBERT checkpoint as a starting point for training.

The output is a normalized Hugging Face folder: one float32 model.safetensors with every parameter
under its own name (tied decoder stored once), config.json and the tokenizer. Set the recipe's
`initial_checkpoint` and `tokenizer.path` to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbert.errors import ModelError, TokenizerError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.export import write_hugging_face_folder
from mmbert.hub.importing.striding import StridedSampling
from mmbert.hub.importing.vocabulary import Initialization, VocabularyChange, change_vocabulary
from mmbert.hub.model_source import HuggingFaceSource
from mmbert.hub.models import build_model
from mmbert.hub.output_folder import require_absent
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.verification import ExportMismatchError, LogitComparison, compare_logits
from mmbert.hub.weights import DECODER_BIAS, EMBEDDING
from mmbert.model.config import EncoderConfig
from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    Attributes:
        model: configuration of the written model.
        unused_rows: embedding rows without a token; many models round their vocabulary size up.
        vocabulary: the change of vocabulary; None if it was kept.
        source: comparison of the given model, in transformers, with this project's encoder.
        comparison: the same of the written folder.
        set_aside: statements about settings of the tokenizers that are not used.
    """

    model: HuggingFaceModel
    unused_rows: int
    vocabulary: VocabularyChange | None
    source: LogitComparison
    comparison: LogitComparison
    set_aside: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield the report as lines for the user."""
        encoder = self.model.encoder
        yield (
            f"{encoder.num_hidden_layers} layers of width {encoder.hidden_size}, vocabulary"
            f" {encoder.vocab_size:,}, contexts up to {self.model.context:,}, rotary bases"
            f" {self.model.rotary_bases.global_:g} (global) and"
            f" {self.model.rotary_bases.local_:g} (local)"
        )
        if self.unused_rows:
            yield f"keeping {self.unused_rows:,} unused embedding rows"
        if self.vocabulary is not None:
            change = self.vocabulary
            yield (
                f"new vocabulary: {change.kept:,} tokens keep their embedding, {change.composed:,}"
                f" start from the mean of their old subwords, {change.averaged:,} from the mean of"
                " all tokens"
            )
        yield from self.set_aside
        yield f"verified against the given model in transformers: {self.source}"
        yield f"verified against the written folder in transformers: {self.comparison}"


def import_model(
    folder: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    initialization: Initialization = "subwords",
    sizes: ModelSettings | None = None,
) -> ImportReport:
    """Import the ModernBERT masked language model in `folder` to the folder `out`.

    Without `tokenizer` and `sizes`, weights are copied bit for bit. `out` is created atomically,
    after the logits of the given model were compared with those of this project's encoder.

    Args:
        folder: Hugging Face folder of the model.
        out: folder to write.
        tokenizer: Hugging Face folder of a new tokenizer, for which the embedding is adapted.
        initialization: method of initializing the embeddings of new tokens.
        sizes: smaller sizes of the model, for strided sampling.

    Raises:
        UserError: the model cannot be imported, or has other logits in transformers; names the file
            and tensor.
    """
    source = HuggingFaceSource(folder)
    require_absent(out)
    config = source.model.encoder
    sampling = None
    provenance: dict[str, Any] = {"kind": "import", "from": source.provenance}
    if sizes is not None:
        config = _shrunk(config, sizes)
        sampling = StridedSampling(source.model.encoder, config)
        provenance["strided_sampling"] = {"hidden_size": config.hidden_size}
    change, tokenizer_folder, special_ids = None, folder, source.special_ids
    old, new = FastTokenizer(folder), None
    unused_rows = config.vocab_size - old.size
    if unused_rows < 0:
        raise TokenizerError(
            f"{folder}: the tokenizer has {old.size} ids, the embedding {config.vocab_size} rows",
            remedy="tokenizer and model do not belong together; download both again",
        )
    if tokenizer is not None:
        new, unused_rows = FastTokenizer(tokenizer), 0
        change = change_vocabulary(old, new, initialization)
        assert new.special_ids is not None
        tokenizer_folder, special_ids = tokenizer, new.special_ids
        config = replace(config, vocab_size=new.size)
        provenance["tokenizer"] = {
            "name": tokenizer.resolve().name,
            "kept": change.kept,
            "composed": change.composed,
            "averaged": change.averaged,
        }
    model = replace(source.model, encoder=config)
    compared = _compare_with_given(source)

    def parameters() -> Iterator[tuple[str, Tensor]]:
        for name in source.shapes if sampling is None else sampling.shapes:
            tensor = source.read(name) if sampling is None else sampling.read(source.weights, name)
            if change is not None and name in (EMBEDDING, DECODER_BIAS):
                tensor = change.apply(tensor)
            yield name, tensor

    set_aside = (old.set_aside, None if new is None else new.set_aside)
    said = [line for line in set_aside if line is not None]
    comparison = write_hugging_face_folder(
        out,
        name=out.name,
        model=model,
        parameters=parameters(),
        special_ids=special_ids,
        tokenizer=tokenizer_folder,
        dtype="float32",
        provenance=provenance,
        language_tokens={},
        recipe=None,
        say=said.append,
    )
    return ImportReport(
        model, unused_rows, change, compared, comparison, tuple(dict.fromkeys(said))
    )


def _compare_with_given(source: HuggingFaceSource) -> LogitComparison:
    """Compare the encoder, with the given weights, with the model that transformers loads.

    Raises ModelError if transformers cannot load it, or logits differ by more than rounding.
    """
    from transformers import __version__

    ours = build_model(source.model.encoder, source.items())
    try:
        return compare_logits(source.path, ours, source.model)
    except ExportMismatchError as error:
        raise ModelError(
            f"{source.path} has other logits in transformers {__version__} than in this project's"
            f" encoder: {error.comparison}",
            remedy="its config.json or weights mean something else to that version: install the one"
            f" that wrote them (transformers_version in {source.path / 'config.json'}); nothing was"
            " written",
        ) from error


def _shrunk(config: EncoderConfig, sizes: ModelSettings) -> EncoderConfig:
    """Return the source's configuration with the recipe's sizes."""
    return replace(
        config,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
    )
