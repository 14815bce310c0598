"""Models by their name on the Hugging Face hub: `NAME@REVISION` to a folder of the local cache."""

import errno
import re
from collections.abc import Callable
from pathlib import Path

from mmbert.errors import ModelError
from mmbert.hub.tokenizer import TOKENIZER_FILES

_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(@(?P<revision>[\w./-]+))?")
_CACHED = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<commit>[0-9a-f]{40})")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FILES = ["config.json", "provenance.json", *TOKENIZER_FILES]
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]


def model_folder(model: Path, say: Callable[[str], None]) -> Path:
    """Return `model` itself if it exists, else the folder of the model of that name on the hub.

    Names have the form OWNER/NAME or OWNER/NAME@REVISION (default: main). Files come from
    huggingface_hub's cache or are downloaded to it: weights as safetensors or else as pickles, and
    configuration and tokenizer, but no code. The library's settings apply (`HF_HOME`, `HF_TOKEN`,
    `HF_ENDPOINT`, `HF_HUB_OFFLINE`). `say` is told the commit, or that a folder came before a name.

    Raises ModelError if there is neither, or the hub or the model is out of reach.
    """
    named = _NAME.fullmatch(str(model))
    if model.exists():
        if named and not named["revision"] and (model / "config.json").is_file():
            say(f"reading the folder {model}; write {model}@main for a model of the hub")
        return model
    if named is None or model.suffix in (".pt", ".bin", ".safetensors"):
        raise ModelError(
            f"{model} is not a folder",
            remedy="give a checkpoint (RUN/checkpoints/step-…), a Hugging Face folder, or a name on"
            " the hub (OWNER/NAME@REVISION)",
        )
    name, revision = named["name"], named["revision"] or "main"
    folder = _snapshot(name, revision, [*_FILES, *_SAFETENSORS])
    commit = folder.name
    if not any(folder.glob("model*.safetensors")):
        folder = _snapshot(name, commit, [*_FILES, *_PICKLES])
    say(f"{name}@{revision}: commit {commit}")
    return folder


def cached_model(folder: Path) -> tuple[str, str] | None:
    """Return name and commit of a folder in huggingface_hub's cache; None for other folders."""
    found = _CACHED.fullmatch("/".join(folder.resolve().parts[-3:]))
    return (f"{found['owner']}/{found['name']}", found["commit"]) if found else None


def _snapshot(name: str, revision: str, patterns: list[str]) -> Path:
    # Imported here: few commands need it.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the library and its transports raise many types
        raise _failure(name, revision, error) from error


def _failure(name: str, revision: str, error: Exception) -> ModelError:
    from huggingface_hub import constants, utils

    hub = constants.ENDPOINT
    if isinstance(error, utils.GatedRepoError):
        return ModelError(
            f"{name} on {hub} is only for accounts that were granted access",
            remedy=f"accept its terms at {hub}/{name}, then run `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, utils.RevisionNotFoundError):
        return ModelError(
            f"{name} on {hub} has no revision {revision}",
            remedy="give one of its branches, tags or commits, such as main",
        )
    if isinstance(error, utils.RepositoryNotFoundError):
        return ModelError(
            f"{name} is neither a folder here nor a model on {hub}",
            remedy="check the name; for a private model run `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, utils.LocalEntryNotFoundError):
        reason = f"{hub} cannot be reached ({_first_line(error.__cause__ or error)})"
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set"
        return ModelError(
            f"{name} is neither a folder here nor, at revision {revision}, complete in the cache"
            f" {constants.HF_HUB_CACHE}, and {reason}",
            remedy=f"where there is a network, run `hf download {name} --revision {revision}` and"
            " copy the cache; or set HF_ENDPOINT to a mirror, or give a folder",
        )
    if (full := _disk_error(error)) is not None:
        return ModelError(
            f"{name}@{revision} cannot be stored in {constants.HF_HUB_CACHE}: {full.strerror}",
            remedy="free space there, or set HF_HOME to a folder on another disk; the same command"
            " then continues the download",
        )
    return ModelError(
        f"{name}@{revision} cannot be downloaded from {hub}: {_first_line(error)}",
        remedy="run the same command again to continue the download; files that are complete are"
        " kept",
    )


def _disk_error(error: BaseException | None) -> OSError | None:
    """Return the error of a full disk (or quota, or file-size limit) among an error's causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
