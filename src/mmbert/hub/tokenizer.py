"""Hugging Face fast tokenizers: token bytes, special tokens and export."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.data.shards.tokenizer_function import PROBES
from mmbert.data.shards.tokenizer_state import joined, saved_state, without_state
from mmbert.errors import TokenizerError
from mmbert.files import parse_json
from mmbert.hub.output_folder import write_json

# Tokenizer files of a Hugging Face folder.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)
# Settings from which classes of tokenizers are built anew.
_OF_CLASSES = (
    "add_prefix_space", "do_lower_case", "strip_accents", "tokenize_chinese_chars", "legacy",
    "add_bos_token", "add_eos_token",
)  # fmt: skip
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
        set_aside: statement about saved padding, truncation and dropout, which are not used; None
            without.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(
                f"{folder} has no tokenizer.json",
                remedy="give a Hugging Face tokenizer folder (a fast tokenizer)",
            )
        try:
            text = path.read_text(encoding="utf-8")
            definition = parse_json(text)
            names = saved_state(definition)
            text = json.dumps(without_state(definition)) if names else text
            self._tokenizer = Tokenizer.from_str(text)  # which takes any path, unlike from_file
        except Exception as error:  # the library raises nothing more precise
            raise TokenizerError(
                f"{path} cannot be read: {error}", remedy="save the tokenizer again"
            ) from error
        self.set_aside = f"{path}: saved {joined(names)} set aside" if names else None
        self.folder = folder
        self.vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self._tokens = {number: token for token, number in self.vocabulary.items()}
        self.size = max(self.vocabulary.values()) + 1
        self._added = {t.content for t in self._tokenizer.get_added_tokens_decoder().values()}
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

    def encode_framed(self, text: str) -> list[int]:
        """Encode `text` with the special tokens that the tokenizer itself adds."""
        return list(self._tokenizer.encode(text).ids)

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

    def _probe(self) -> tuple[list[int], list[int]]:
        """Return the ids of a text with and without the special tokens that are added."""
        try:
            return self.encode_framed("a"), self.encode("a")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise TokenizerError(
                f"{self.folder / 'tokenizer.json'} encodes no text: {error}",
                remedy="save the tokenizer again",
            ) from error

    def _special_ids(self) -> SpecialIds | None:
        configured: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            path = self.folder / name
            try:
                configured |= parse_json(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (ValueError, TypeError) as error:
                raise TokenizerError(
                    f"{path} cannot be read: {error}", remedy="save the tokenizer again"
                ) from error
        found: dict[str, int] = {}
        framed, plain = self._probe()
        if (
            len(framed) >= 2 and framed[1:-1] == plain
        ):  # the tokens that frame a text, regardless of names
            found = {"begin": framed[0], "end": framed[-1]}
        for role, keys in _ROLES.items():
            for key in keys:
                token = configured.get(key)
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str) and content in self.vocabulary:
                    found.setdefault(role, self.vocabulary[content])
        return SpecialIds(**found) if len(found) == len(_ROLES) else None


def copy_tokenizer(
    source: Path, target: Path, *, context: int, special_ids: SpecialIds
) -> list[str]:
    """Copy the tokenizer files and adapt the configuration to ModernBERT.

    ModernBERT takes no token types; its maximum input length is `context`. In transformers the copy
    gives the ids that the model is trained on: what an earlier use saved in tokenizer.json is left
    out, and a missing post-processor, which adds begin and end, is written.

    Returns:
        A statement for each of these changes.

    Raises:
        TokenizerError: transformers encodes text in another way all the same, or cannot read from
            `target`, whose name is not UTF-8.
    """
    try:
        str(target).encode()
    except UnicodeEncodeError as error:  # which the libraries would take for a broken tokenizer
        raise TokenizerError(
            f"{target} is not UTF-8, which transformers needs",
            remedy="name another folder, or set PYTHONUTF8=1 if the locale is of another encoding",
        ) from error
    said = []
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    path = target / "tokenizer.json"
    definition = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if names := saved_state(definition):
        said.append(f"{source / path.name}: saved {joined(names)} set aside")
        definition = without_state(definition)
        write_json(path, definition)
    if definition and not _frames(FastTokenizer(target), special_ids):
        said.append(f"{source / path.name}: adds no begin and end to a text; the copy does")
        definition["post_processor"] = _framing(FastTokenizer(target), special_ids)
        write_json(path, definition)
    path = target / "tokenizer_config.json"
    config = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config.pop("auto_map", None)  # code of the source's, which is not copied
    config["model_max_length"] = context
    config["model_input_names"] = ["input_ids", "attention_mask"]
    if config.get("tokenizer_class") in (None, "TokenizersBackend"):
        # Old name of the generic class: the only one in 4.x, also accepted by 5.x.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, config)
    if definition and not _agrees(target, special_ids):
        # Classes of some models build the tokenizer anew, from settings in this file.
        changed = {name: config.pop(name) for name in _OF_CLASSES if name in config}
        write_json(path, config | {"tokenizer_class": "PreTrainedTokenizerFast"})
        said.append(
            f"{source / path.name}: {', '.join(sorted({*changed, 'tokenizer_class'}))} left out of"
            " the copy: with them transformers gives other ids than those of the training"
        )
        if not _agrees(target, special_ids):
            raise TokenizerError(
                f"transformers encodes text with the tokenizer in {source} in another way than the"
                " training, which uses its tokenizer.json",
                remedy="install the version of transformers that wrote it, or save it again as a"
                " PreTrainedTokenizerFast",
            )
    return said


def _frames(tokenizer: FastTokenizer, special_ids: SpecialIds) -> bool:
    plain = tokenizer.encode(PROBES[0])
    return tokenizer.encode_framed(PROBES[0]) == [special_ids.begin, *plain, special_ids.end]


def _framing(tokenizer: FastTokenizer, special_ids: SpecialIds) -> dict[str, Any]:
    """Return the post-processor of tokenizer.json that puts begin and end around a text."""
    begin, end = (
        (tokenizer.token(number), number) for number in (special_ids.begin, special_ids.end)
    )
    framing = TemplateProcessing(
        single=[begin[0], "$A", end[0]],
        pair=[begin[0], "$A", end[0], "$B:1", f"{end[0]}:1"],
        special_tokens=[begin, end] if begin != end else [begin],
    )
    framed: dict[str, Any] = parse_json(framing.__getstate__())
    return framed


def _agrees(folder: Path, special_ids: SpecialIds) -> bool:
    """Return whether transformers gives the ids of the training to a few texts."""
    from transformers import AutoTokenizer

    ours = FastTokenizer(folder)
    try:
        theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        found = [list(theirs(text)["input_ids"]) for text in PROBES]
    except Exception:  # the library raises many types
        return False
    return found == [[special_ids.begin, *ours.encode(text), special_ids.end] for text in PROBES]


def _character_bytes() -> dict[str, int]:
    """Map each character of byte-level BPE to its byte (inverse GPT-2 table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _character_bytes()
