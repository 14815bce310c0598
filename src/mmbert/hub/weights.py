"""Weights of a Hugging Face ModernBERT folder: checked reader and streaming writer."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mmbert.checkpoint.safetensors_header import safetensors_header
from mmbert.errors import ModelError
from mmbert.files import parse_json
from mmbert.hub.pickled_weights import read_pickled_weights
from mmbert.model.config import EncoderConfig
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import TensorGroup

EMBEDDING = "model.embeddings.tok_embeddings.weight"
DECODER_WEIGHT = "decoder.weight"
DECODER_BIAS = "decoder.bias"
WEIGHTS_FILE = "model.safetensors"
_PICKLE_FILE = "pytorch_model.bin"
_READ = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def parameter_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter in the order of the forward pass, tied weights once."""
    with torch.device("meta"):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


class HuggingFaceWeights:
    """Tensors of a Hugging Face folder, read on demand.

    The constructor checks that the folder contains exactly the parameters of `config` with their
    shapes, and that a stored decoder weight equals the embedding it is tied to. It raises
    ModelError naming the tensor and the file.
    """

    def __init__(self, folder: Path, config: EncoderConfig) -> None:
        self.folder = folder
        self.shapes = parameter_shapes(config)
        self._files: dict[str, Path] = {}
        self._pickled: dict[str, torch.Tensor] = {}
        for path in weight_files(folder):
            if path.suffix == ".bin":
                tensors = read_pickled_weights(path)
                self._pickled |= tensors
                self._files |= dict.fromkeys(tensors, path)
            else:
                self._files |= dict.fromkeys(_names_in(path), path)
        for name, shape in self.shapes.items():
            if name not in self._files:
                raise ModelError(
                    f"{folder}: tensor {name} is missing",
                    remedy="the folder must contain a masked language model with its head"
                    " (ModernBertForMaskedLM); download it again if a file is missing",
                )
            found = self._shape(name)
            if found != shape:
                raise ModelError(
                    f"{self._files[name]}: {name} has shape {list(found)}; config.json requires"
                    f" {list(shape)}",
                    remedy="config.json and the weights belong to different models; download both"
                    " from the same source",
                )
        for name in self._files:
            if name not in self.shapes and name != DECODER_WEIGHT:
                raise ModelError(
                    f"{self._files[name]}: unexpected tensor {name}",
                    remedy="import ModernBERT's masked language model itself, not a model that was"
                    " fine-tuned or extended from it",
                )
        if DECODER_WEIGHT in self._files:
            self._check_tied()

    def names(self) -> Iterable[str]:
        """Return the parameter names in the order of the forward pass."""
        return self.shapes.keys()

    def read(self, name: str) -> torch.Tensor:
        """Read a parameter as float32 on the CPU. Raises ModelError if quantized or not finite."""
        tensor = self._raw(name)
        if tensor.dtype not in _READ:
            raise ModelError(
                f"{self._files[name]}: {name} has dtype {tensor.dtype}",
                remedy="quantized weights cannot be trained; use weights in float32, bfloat16 or"
                " float16",
            )
        tensor = tensor.to(torch.float32)
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise ModelError(
                f"{self._files[name]}: {name} has {wrong} non-finite values",
                remedy="the checkpoint is damaged or its training diverged; use another one",
            )
        return tensor

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every (name, float32 tensor), with one in memory at a time."""
        for name in self.names():
            yield name, self.read(name)

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self._pickled:
            return tuple(self._pickled[name].shape)
        with safe_open(self._files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def _raw(self, name: str) -> torch.Tensor:
        if name in self._pickled:
            return self._pickled[name]
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)

    def _check_tied(self) -> None:
        decoder, embedding = self._raw(DECODER_WEIGHT), self._raw(EMBEDDING)
        if decoder.shape != embedding.shape or not torch.equal(decoder, embedding):
            raise ModelError(
                f"{self._files[DECODER_WEIGHT]}: {DECODER_WEIGHT} differs from {EMBEDDING}"
                f" ({self._files[EMBEDDING]}), although config.json ties them",
                remedy="only models with tied embeddings can be imported",
            )


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights of a Hugging Face folder, safetensors before pickles.

    Raises ModelError if there are none, or an index is damaged or names a missing file.
    """
    for whole in (WEIGHTS_FILE, _PICKLE_FILE):
        index = folder / f"{whole}.index.json"
        if (folder / whole).is_file():
            return [folder / whole]
        if index.is_file():
            return _shards(index)
    others = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    found = f"; {others[0].name} is not one of Hugging Face's names" if others else ""
    raise ModelError(
        f"{folder} has no weights ({WEIGHTS_FILE} or {_PICKLE_FILE}){found}",
        remedy="give the folder of a Hugging Face model (config.json and model.safetensors)",
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
        foreign = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is not a weight index", remedy="download it again") from error
    if foreign:
        raise ModelError(
            f"{index} names a file outside its folder: {foreign[0]}",
            remedy="download the model again from a source that you trust",
        )
    for name in names:
        if not _is_file(index.parent / name):
            raise ModelError(
                f"{index.parent / name} is missing",
                remedy=f"download it again: {index.name} lists it",
            )
    return [index.parent / name for name in names]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _names_in(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ModelError(
            f"cannot read {path}: {error}", remedy="the file is damaged; download it again"
        ) from error


def write_weights(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    parameters: Iterable[tuple[str, torch.Tensor]],
    dtype: torch.dtype,
) -> None:
    """Write `parameters` (float32, any order) to the safetensors file `path` in `dtype`.

    `shapes` is known in advance, so that only one tensor is in memory at a time. Raises ValueError
    if a tensor is unknown, has the wrong shape, is not finite, is missing, or is given twice.
    """
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    header, missing = safetensors_header(
        {name: (_DTYPE_NAMES[dtype], shape, sizes[name]) for name, shape in shapes.items()},
        metadata={"format": "pt"},
    )
    with path.open("wb") as file:
        file.write(header)
        for name, tensor in parameters:
            if name not in missing:
                raise ValueError(f"{name} is unknown or was given twice")
            if tuple(tensor.shape) != shapes[name]:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(shapes[name])}")
            data = tensor.to(dtype).contiguous()
            if not bool(torch.isfinite(data).all()):
                raise ValueError(f"{name} has non-finite values in {dtype}")
            file.seek(len(header) + missing.pop(name))
            file.write(data.view(torch.uint8).numpy().data)
        if missing:
            raise ValueError(f"missing parameters: {', '.join(missing)}")
        file.truncate(len(header) + sum(sizes.values()))
