"""A checkpoint or Hugging Face folder loaded for inference, with packing and mean pooling."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmbert.errors import ArgumentError, DeviceError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.model_source import CheckpointSource, open_model
from mmbert.hub.models import build_model, pack
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert_kernels import computes_in_bfloat16

# Tokens per packed row: enough to utilize a GPU, and few enough for the memory of any GPU.
ROW_TOKENS = 8192


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LoadedModel:
    """A model in `dtype` on `device` (default: a GPU if available), with its tokenizer.

    Attributes:
        module: PyTorch module.
        model: model configuration.
        tokenizer: tokenizer of the model.
        recipe: training recipe; None for a Hugging Face folder.

    Raises:
        UserError: `path` contains no valid model, `dtype` is not in DTYPES, or the GPU does not
            support it.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(default if device is None else device)
        _check_dtype(dtype, self.device)
        source = open_model(path)
        self.path = path
        self.recipe = source.recipe if isinstance(source, CheckpointSource) else None
        self.model: HuggingFaceModel = source.model
        self.module: MaskedLanguageModel = build_model(source.model.encoder, source.items())
        self.module.to(self.device, dtype)
        self.tokenizer = FastTokenizer(source.tokenizer)
        self.special_ids = source.special_ids

    def encode(self, text: str, *, max_length: int | None = None) -> Tensor:
        """Return int64 ids of `text` with begin and end, at most `max_length` and the context."""
        room = min(max_length or self.model.context, self.model.context) - 2
        ids = self.tokenizer.encode(text)[:room]
        return torch.tensor([self.special_ids.begin, *ids, self.special_ids.end])

    def rows(self, documents: Sequence[Tensor]) -> Iterator[list[int]]:
        """Yield the document indices of each packed row, sorted by length."""
        order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
        row: list[int] = []
        tokens = 0
        for number in order:
            if row and tokens + len(documents[number]) > ROW_TOKENS:
                yield row
                row, tokens = [], 0
            row.append(number)
            tokens += len(documents[number])
        if row:
            yield row

    @torch.no_grad()
    def sentence_vectors(self, texts: Sequence[str], *, max_length: int | None = None) -> Tensor:
        """Return the mean last hidden state of each text, float32 [texts, d] on the CPU."""
        documents = [self.encode(text, max_length=max_length) for text in texts]
        vectors = torch.empty(len(texts), self.model.encoder.hidden_size)
        for row in self.rows(documents):
            batch = pack([documents[number] for number in row]).to(self.device)
            hidden = self.module.hidden_states(batch, rotary_bases=self.model.rotary_bases)
            vectors[row] = mean_by_document(hidden, batch.cu_seqlens).cpu()
        return vectors


def _check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    if dtype not in DTYPES.values():
        raise ArgumentError(
            f"unsupported dtype {dtype}", remedy=f"choose one of {', '.join(DTYPES)}"
        )
    if dtype == torch.bfloat16 and device.type == "cuda" and not computes_in_bfloat16(device):
        raise DeviceError(
            f"{torch.cuda.get_device_name(device)} does not support bfloat16",
            remedy="evaluate in float32, the default",
        )


def mean_by_document(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Average [T, d] over documents with starts int32 [S + 1]; returns float32 [S, d]."""
    hidden = hidden.float()
    lengths = cu_seqlens.diff().long()
    owner = torch.repeat_interleave(lengths)
    sums = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, owner, hidden)
    return sums / lengths[:, None]
