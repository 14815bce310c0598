"""Checks of an initial checkpoint (a folder written by `mmbert import`) against recipe and shards.

Matching shapes do not imply a matching model: window, activation, layer pattern or token ids may
differ. Training would then run without an error but produce a worse model. The folder's config.json
and tokenizer.json are therefore compared before training starts.
"""

from pathlib import Path
from typing import Any

from mmbert.errors import ModelError, TokenizerError
from mmbert.files import parse_json
from mmbert.model.config import FIXED_BY_ARCHITECTURE, LARGEST_NUMBER
from mmbert.recipe import ModelSettings, RotaryBases

# Keys of config.json and of the recipe's `model` that must agree.
_SAME = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "local_attention": "local_window",
    "global_attn_every_n_layers": "global_attention_every",
    "norm_eps": "norm_eps",
}
_BASES = {"global_rope_theta": "global_", "local_rope_theta": "local_"}


class InitialCheckpoint:
    """The configuration in `folder`/config.json; UserError if it is unreadable or lacks a key.

    `vocab_size`: rows of the embedding, some of which may be unused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "config.json"
        self._remedy = f"set initial_checkpoint to the output of `mmbert import HF_FOLDER {folder}`"
        self._config = self._read_json(self._path)
        needed = {*_SAME, *_BASES, *FIXED_BY_ARCHITECTURE, "vocab_size"}
        missing = sorted(needed - self._config.keys())
        if missing:
            raise ModelError(f"{self._path} lacks the key {missing[0]}", remedy=self._remedy)
        for key in (*_BASES, "vocab_size"):
            value = self._config[key]
            wanted = (int,) if key == "vocab_size" else (int, float)
            number = isinstance(value, wanted) and not isinstance(value, bool)
            if not number or not 0 < value < LARGEST_NUMBER:
                raise ModelError(
                    f"{self._path}: {key} is not a positive number", remedy=self._remedy
                )
        self.vocab_size: int = self._config["vocab_size"]

    def check_model(self, settings: ModelSettings) -> None:
        """Raise UserError, listing all differing keys, unless the recipe's model matches."""
        differing = [
            f"{ours} is {getattr(settings, ours)} instead of {self._config[theirs]}"
            for theirs, ours in _SAME.items()
            if getattr(settings, ours) != self._config[theirs]
        ]
        differing += [
            f"{key} is {value} instead of {self._config[key]}"
            for key, value in FIXED_BY_ARCHITECTURE.items()
            if self._config[key] != value
        ]
        if settings.vocab_size not in (None, self.vocab_size):
            differing.append(f"vocab_size is {settings.vocab_size} instead of {self.vocab_size}")
        if differing:
            raise ModelError(
                f"the recipe's model differs from that in {self.folder}: {'; '.join(differing)}",
                remedy="set the recipe's `model:` to the imported values, or import another model",
            )

    def rotary_differences(self, bases: RotaryBases, phase: str = "the first phase") -> list[str]:
        """Return a warning for each kind of layer whose rotary base differs from the checkpoint's.

        A change may be intended, such as for a longer context, but is usually a mistake.
        """
        return [
            f"rotary_bases.{key.partition('_')[0]} of {phase} is {getattr(bases, ours):g},"
            f" but the model in {self.folder} was trained with {self._config[key]:g}"
            for key, ours in _BASES.items()
            if getattr(bases, ours) != self._config[key]
        ]

    def check_tokenizer(self, tokenizer: Path, special_ids: dict[str, int]) -> None:
        """Raise UserError unless the model and the shards have the same vocabulary and special ids.

        `tokenizer`: the shards' tokenizer folder. `special_ids`: special token ids by role.
        """
        ours, theirs = self.folder / "tokenizer.json", tokenizer / "tokenizer.json"
        remedy = (
            f"preprocess with TOKENIZER={self.folder}, or give the model the shards' vocabulary:"
            f" mmbert import … --tokenizer {tokenizer}"
        )
        first, second = self._vocabulary(ours), self._vocabulary(theirs)
        if first != second:
            differing = sorted(first.items() ^ second.items(), key=lambda entry: entry[1])
            raise TokenizerError(
                f"the shards and the model in {self.folder} have different tokenizers:"
                f" {ours} and {theirs} differ in id {differing[0][1]}",
                remedy=remedy,
            )
        for role, key in (("pad", "pad_token_id"), ("begin", "bos_token_id"),
                          ("end", "eos_token_id"), ("mask", "mask_token_id")):  # fmt: skip
            if self._config.get(key) != special_ids[role]:
                raise TokenizerError(
                    f"{self._path}: {key} is {self._config.get(key)}, but the shards'"
                    f" {role} token is {special_ids[role]}",
                    remedy=remedy,
                )
        largest = max(first.values())
        if largest >= self.vocab_size:
            raise TokenizerError(
                f"{ours} has the id {largest}, but {self._path} has only {self.vocab_size} rows",
                remedy=remedy,
            )

    def _vocabulary(self, path: Path) -> dict[str, int]:
        """Return every token's id, including added tokens."""
        definition = self._read_json(path)
        try:
            vocabulary = definition["model"]["vocab"]
            if not isinstance(vocabulary, dict):  # a unigram model's list of (token, score)
                vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
            added = {entry["content"]: entry["id"] for entry in definition["added_tokens"]}
            if not all(type(number) is int for number in (vocabulary | added).values()):
                raise TypeError("an id is not a number")
        except (KeyError, TypeError, IndexError) as error:
            raise TokenizerError(
                f"no vocabulary in {path}: {error}", remedy=self._remedy
            ) from error
        return vocabulary | added

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {path}: {error}", remedy=self._remedy) from error
        if not isinstance(values, dict):
            raise ModelError(f"{path} is not a JSON object", remedy=self._remedy)
        return values
