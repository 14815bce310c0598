"""Hugging Face fast tokenizers: token bytes, special tokens and export."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.errors import TokenizerError
from mmbert.hub.output_folder import write_json

# Tokenizer files of a Hugging Face folder.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)
# Same as in preprocessing, so that tokens have the same roles in both.
_ROLES = {
    "pad": ("pad_token",),
    "begin": ("bos_token", "cls_token"),
    "end": ("eos_token", "sep_token"),
    "unknown": ("unk_token", "pad_token"),  # byte-level vocabularies may lack unknown
    "mask": ("mask_token",),
}


class FastTokenizer:
    """Tokenizer in `folder` (tokenizer.json and its settings). Raises TokenizerError if invalid.

    Attributes:
        vocabulary: id of each token.
        size: the largest id plus one.
        special_ids: ids by role; None if a role is missing.
        set_aside: statement about saved padding and truncation, which are not used; None without.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(
                f"{folder} has no tokenizer.json",
                remedy="give a Hugging Face tokenizer folder (a fast tokenizer)",
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more precise
            raise TokenizerError(
                f"{path} cannot be read: {error}", remedy="save the tokenizer again"
            ) from error
        saved = {"padding": self._tokenizer.padding, "truncation": self._tokenizer.truncation}
        names = [name for name, settings in saved.items() if settings is not None]
        self.set_aside = f"{path}: saved {' and '.join(names)} set aside" if names else None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.folder = folder
        self.vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self._tokens = {number: token for token, number in self.vocabulary.items()}
        self.size = max(self.vocabulary.values()) + 1
        self._added = {t.content for t in self._tokenizer.get_added_tokens_decoder().values()}
        definition = json.loads(path.read_text(encoding="utf-8"))
        # Searched instead of the whole file, whose vocabulary may contain the word.
        parts = json.dumps([definition.get("pre_tokenizer"), definition.get("decoder")])
        self._byte_level = '"ByteLevel"' in parts
        self.special_ids = self._special_ids()

    def token_bytes(self, token: str) -> bytes:
        """Return the UTF-8 bytes of `token`, including spaces; possibly partial characters."""
        if token in self._added:
            return token.encode()
        if self._byte_level:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        if len(token) == 6 and token.startswith("<0x"):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode()

    def encode(self, text: str) -> list[int]:
        """Encode `text` without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids, special tokens included; an id without a token gives no text."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def token(self, number: int) -> str:
        """Return the token of an id."""
        return self._tokens[number]

    def encode_bytes(self, content: bytes) -> list[int]:
        """Return ids with exactly the bytes of `content`, or else the tokenizer's encoding.

        Compensates for tokenizers that prepend a space to every text: omits the leading space of
        `content`, or removes the prepended one. Empty if `content` is not valid UTF-8.
        """
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            return []
        candidates = [self.encode(text)]
        if text.startswith(" "):
            candidates.append(self.encode(text[1:]))
        candidates.append(candidates[0][1:])
        for ids in candidates:
            if b"".join(self.token_bytes(self._tokens[number]) for number in ids) == content:
                return ids
        return candidates[0]

    def _special_ids(self) -> SpecialIds | None:
        configured: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            path = self.folder / name
            try:
                configured |= json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (ValueError, TypeError) as error:
                raise TokenizerError(
                    f"{path} cannot be read: {error}", remedy="save the tokenizer again"
                ) from error
        found: dict[str, int] = {}
        framed, plain = list(self._tokenizer.encode("a").ids), self.encode("a")
        if (
            len(framed) >= 2 and framed[1:-1] == plain
        ):  # the tokens that frame a text, regardless of names
            found = {"begin": framed[0], "end": framed[-1]}
        for role, keys in _ROLES.items():
            for key in keys:
                token = configured.get(key)
                content = token.get("content") if isinstance(token, dict) else token
                if content in self.vocabulary:
                    found.setdefault(role, self.vocabulary[content])
        return SpecialIds(**found) if len(found) == len(_ROLES) else None


def copy_tokenizer(source: Path, target: Path, *, context: int) -> None:
    """Copy the tokenizer files and adapt the configuration to ModernBERT.

    ModernBERT takes no token types; its maximum input length is `context`. Padding and truncation
    that an earlier use saved in tokenizer.json are left out.
    """
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    path = target / "tokenizer.json"
    definition = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if definition.get("padding") is not None or definition.get("truncation") is not None:
        write_json(path, definition | {"padding": None, "truncation": None})
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config.pop("auto_map", None)  # code of the source's, which is not copied
    config["model_max_length"] = context
    config["model_input_names"] = ["input_ids", "attention_mask"]
    if config.get("tokenizer_class") in (None, "TokenizersBackend"):
        # Old name of the generic class: the only one in 4.x, also accepted by 5.x.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, config)


def _character_bytes() -> dict[str, int]:
    """Map each character of byte-level BPE to its byte (inverse GPT-2 table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _character_bytes()
