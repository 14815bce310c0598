"""Import: any ModernBERT checkpoint becomes a folder that training can start or continue from.

The folder is a Hugging Face one, normalised: one model.safetensors in float32 with every parameter
under its own name (the tied decoder stored once), config.json and the tokenizer. The recipe names
it as `initial_checkpoint`, and as `tokenizer.path`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbert.errors import UserError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.export import write_hugging_face_folder
from mmbert.hub.importing.striding import StridedSampling
from mmbert.hub.importing.vocabulary import Initialization, VocabularyChange, change_vocabulary
from mmbert.hub.model_source import HuggingFaceSource
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.verification import LogitComparison
from mmbert.hub.weights import DECODER_BIAS, EMBEDDING
from mmbert.model.config import EncoderConfig
from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class ImportReport:
    """What was imported: the model as written, and how its vocabulary came about (None: as was).

    `unused_rows` of the embedding are of no token: many models round their vocabulary up.
    """

    model: HuggingFaceModel
    unused_rows: int
    vocabulary: VocabularyChange | None
    comparison: LogitComparison

    def lines(self) -> Iterator[str]:
        """For the person who imported."""
        encoder = self.model.encoder
        yield (
            f"{encoder.num_hidden_layers} layers of width {encoder.hidden_size}, vocabulary"
            f" {encoder.vocab_size:,}, contexts up to {self.model.context:,}, rotary bases"
            f" {self.model.rotary_bases.global_:g} (global) and"
            f" {self.model.rotary_bases.local_:g} (local)"
        )
        if self.unused_rows:
            yield f"{self.unused_rows:,} rows of the vocabulary are of no token; they stay"
        if self.vocabulary is not None:
            change = self.vocabulary
            yield (
                f"new vocabulary: {change.kept:,} tokens keep their rows, {change.composed:,} start"
                f" from the mean of the old tokens that spell them, {change.averaged:,} from the"
                " mean of all"
            )
        yield f"checked against transformers: {self.comparison}"


def import_model(
    folder: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    initialization: Initialization = "subwords",
    sizes: ModelSettings | None = None,
) -> ImportReport:
    """Write the ModernBERT masked language model in `folder` to `out`, for training to begin with.

    With `tokenizer` (a Hugging Face tokenizer folder) the embedding gets its vocabulary, new rows
    initialised as `initialization` says. With `sizes` the model is made smaller by strided
    sampling. Without either, the weights are those of `folder`, bit for bit. UserError names the
    file and tensor of whatever cannot be imported; `out` appears complete or not at all.
    """
    source = HuggingFaceSource(folder)
    config = source.model.encoder
    sampling = None
    provenance: dict[str, Any] = {"kind": "import", "from": source.provenance}
    if sizes is not None:
        config = _shrunk(config, sizes)
        sampling = StridedSampling(source.model.encoder, config)
        provenance["strided_sampling"] = {"hidden_size": config.hidden_size}
    change, tokenizer_folder, special_ids = None, folder, source.special_ids
    old = FastTokenizer(folder)
    unused_rows = config.vocab_size - old.size
    if unused_rows < 0:
        raise UserError(
            f"{folder}: the tokenizer has {old.size} ids, the model {config.vocab_size} rows",
            remedy="tokenizer and model are not of the same folder; download both again",
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

    def parameters() -> Iterator[tuple[str, Tensor]]:
        for name in source.shapes if sampling is None else sampling.shapes:
            tensor = source.read(name) if sampling is None else sampling.read(source.weights, name)
            if change is not None and name in (EMBEDDING, DECODER_BIAS):
                tensor = change.apply(tensor)
            yield name, tensor

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
    )
    return ImportReport(model, unused_rows, change, comparison)


def _shrunk(config: EncoderConfig, sizes: ModelSettings) -> EncoderConfig:
    """The source's model at the recipe's sizes; everything else stays as it is."""
    return replace(
        config,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
    )
