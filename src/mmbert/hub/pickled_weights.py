"""Weights in PyTorch's own files (`pytorch_model.bin`), read without running what is in them.

A pickle can call any function. These files hold only tensors: a file that names anything else, or
that another reader could understand differently, is refused before it is loaded. `torch.load` then
reads it with its own restricted unpickler.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from mmbert.errors import ModelError

_ALLOWED = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)"
    r"|torch ([A-Z][A-Za-z0-9]*Storage)"
)
_DATA = "data.pkl"
_SAFE_VERSION = (
    "use the model's safetensors version; to convert a file that you trust, load it with torch.load"
    " in a container without network and save its tensors with safetensors"
)


def read_pickled_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of `path` by name, memory-mapped on the CPU.

    Raises ModelError if the file is damaged, would run code, or holds anything but a flat
    dictionary of dense tensors.
    """
    refuse_code(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, _first_line(error)) from error
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ModelError(f"{path} is not a dictionary of tensors", remedy=_ONLY_WEIGHTS)
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
            raise ModelError(
                f"{path}: {name} is a {type(tensor).__name__}, not a dense tensor",
                remedy=_ONLY_WEIGHTS,
            )
    return {name: tensor.detach() for name, tensor in weights.items()}


_ONLY_WEIGHTS = "give the weights of a Hugging Face model, not a training state"


def refuse_code(path: Path) -> None:
    """Raise ModelError unless `path` is a zip file of torch.save whose pickle builds only tensors.

    Nothing is unpickled.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04" and zipfile.is_zipfile(file)
        if not is_zip:
            raise _refused(
                path, "it is no zip file of torch.save, but in an older format (pickle or tar)"
            )
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise _refused(path, "it holds two files of one name")
            pickles = [name for name in names if name.rpartition("/")[2].endswith(".pkl")]
            if len(pickles) != 1 or pickles[0].rpartition("/")[2] != _DATA:
                raise _refused(path, f"it holds {' and '.join(pickles) or 'no pickle'}")
            foreign = _foreign_names(archive.read(pickles[0]))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", remedy="download it again") from error
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise _refused(path, f"it names {', '.join(foreign[:5])}{more}")


def names_in_pickle(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the opcode and the "module name" of each look-up, in any pickle protocol.

    Of STACK_GLOBAL, whose operands are put together while the pickle runs, the name is that of the
    two last strings. Raises ValueError, or what pickletools raises, where `data` is no pickle.
    """
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            yield opcode.name, str(argument)
        elif opcode.name == "STACK_GLOBAL":
            yield opcode.name, " ".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)


def _foreign_names(data: bytes) -> list[str]:
    """Return what a pickle refers to besides the functions and classes that build tensors.

    Nothing is unpickled. Names that are put together while it runs are foreign, whatever they are:
    torch.save writes none.
    """
    return sorted(
        {
            name.replace(" ", ".")
            for opcode, name in names_in_pickle(data)
            if opcode != "GLOBAL" or not _ALLOWED.fullmatch(name)
        }
    )


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} is refused, because loading it could run code: {reason}", remedy=_SAFE_VERSION
    )


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"cannot read {path}: {_first_line(error)}",
        remedy="the file is damaged; download it again",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
