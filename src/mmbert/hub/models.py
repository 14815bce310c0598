"""Models in memory: the encoder built from given parameters, and its transformers counterpart."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from mmbert.errors import ModelError, UserError
from mmbert.hub.pickled_weights import refuse_code
from mmbert.hub.weights import weight_files
from mmbert.model.config import EncoderConfig
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.model.precision import add_products_in_float32
from mmbert.parallel.process_grid import TensorGroup


class ModelBuilder:
    """Builder of a model, parameter by parameter, on the CPU in float32.

    Raises ValueError if a parameter is unknown, has the wrong shape, is set twice, or is missing.
    """

    def __init__(self, config: EncoderConfig) -> None:
        add_products_in_float32()
        with torch.device("cpu"):
            self._model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
        self._missing = dict(self._model.named_parameters())

    @torch.no_grad()
    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Set the parameter `name`."""
        if name not in self._missing:
            raise ValueError(f"{name} is unknown or was set twice")
        target = self._missing.pop(name)
        if target.shape != tensor.shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(target.shape)}")
        target.copy_(tensor)

    def finish(self) -> MaskedLanguageModel:
        """Return the complete model in evaluation mode, without gradients."""
        if self._missing:
            raise ValueError(f"missing parameters: {', '.join(self._missing)}")
        return self._model.eval().requires_grad_(False)


def build_model(
    config: EncoderConfig, parameters: Iterable[tuple[str, torch.Tensor]]
) -> MaskedLanguageModel:
    """Build a model from `parameters` (name, full tensor). Raises the errors of ModelBuilder."""
    builder = ModelBuilder(config)
    for name, tensor in parameters:
        builder.fill(name, tensor)
    return builder.finish()


def pack(documents: Sequence[torch.Tensor]) -> PackedBatch:
    """Pack documents (int64 token ids) into one row without masked positions."""
    lengths = torch.tensor([len(document) for document in documents])
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    return PackedBatch(
        input_ids=torch.cat(list(documents)),
        cu_seqlens=cu_seqlens,
        max_seqlen=int(lengths.max()),
        masked_positions=torch.zeros(0, dtype=torch.int64),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0, dtype=torch.float32),
        row_index=0,
    )


@contextmanager
def without_code_of(folder: Path) -> Iterator[None]:
    """Raise ModelError if transformers, called with `trust_remote_code=False`, needs that code."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelError(
            f"{folder} needs Python code of its own (auto_map), which is never run",
            remedy="use a model that transformers supports itself, such as ModernBERT",
        ) from error


def load_masked_language_model(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Load AutoModelForMaskedLM from `folder` in `dtype`, on the CPU, in evaluation mode.

    Attention is eager, the definition of the others. Shows no progress bar. Code in the folder is
    never run. Raises ModelError for weights that could run code, or if transformers fails.
    """
    for path in weight_files(folder):
        if path.suffix == ".bin":
            refuse_code(path)
    # Imported here: transformers takes seconds to load, and most callers do not need it.
    from transformers import AutoModelForMaskedLM, __version__
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # Without the argument, 5.x rounds float32 weights to the dtype in config.json.
        chosen = {"torch_dtype" if __version__.startswith("4.") else "dtype": dtype}
        with without_code_of(folder):
            model: torch.nn.Module = AutoModelForMaskedLM.from_pretrained(
                folder, trust_remote_code=False, attn_implementation="eager", **chosen
            )
    except UserError:
        raise
    except Exception as error:  # transformers raises many types
        raise ModelError(
            f"transformers {__version__} cannot load {folder}: {error}",
            remedy="install the version that wrote it (transformers_version in its config.json), or"
            " correct the file",
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.eval()
