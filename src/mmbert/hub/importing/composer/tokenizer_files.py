"""Tokenizer in a Composer checkpoint, written as the files that it was read from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbert.errors import TokenizerError
from mmbert.hub.tokenizer import TOKENIZER_FILES


def write_tokenizer(path: Path, state: Mapping[str, Any], folder: Path) -> bool:
    """Write the tokenizer of the checkpoint at `path` to `folder`; False if it holds none.

    Raises:
        TokenizerError: the content of a file has an unexpected type.
    """
    entry: Any = state
    for key in ("integrations", "huggingface", "tokenizer"):
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or "tokenizer.json" not in entry:
        return False
    for name in TOKENIZER_FILES:  # other names could lead out of the folder
        if name in entry:
            content = entry[name].get("content") if isinstance(entry[name], Mapping) else None
            (folder / name).write_bytes(_as_bytes(path, name, content))
    return True


def _as_bytes(path: Path, name: str, content: object) -> bytes:
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False).encode()
    if isinstance(content, list) and all(isinstance(line, str) for line in content):
        return "".join(f"{line.rstrip(chr(10))}\n" for line in content).encode()
    if isinstance(content, bytes):
        return content
    raise TokenizerError(
        f"{path}: the tokenizer's {name} is {type(content).__name__}, not a file's content",
        remedy="give the tokenizer as a Hugging Face folder: --tokenizer-files FOLDER",
    )
