"""A fastText classifier of given words, in the format of its `.bin` files."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_MAGIC, _VERSION = 793_712_314, 12
HIERARCHICAL, SOFTMAX = 1, 3
_SUPERVISED = 3
_LABEL_TYPE, _WORD_TYPE = 1, 0


def write_fasttext_model(
    path: Path, words: Mapping[str, Sequence[str]], loss: int = SOFTMAX
) -> None:
    """Write a model that finds the label most of whose words a text has.

    Args:
        words: words by label, without `__label__`.
        loss: `SOFTMAX`, or `HIERARCHICAL`, whose answers are then arbitrary.
    """
    labels = [f"__label__{name}" for name in words]
    entries = [(word, _WORD_TYPE) for given in words.values() for word in given]
    entries.append(("</s>", _WORD_TYPE))  # the end of every line, as in all trained models
    vectors = np.zeros((len(entries), len(labels)), dtype="<f4")
    owners = [number for number, given in enumerate(words.values()) for _ in given]
    vectors[np.arange(len(owners)), owners] = 1
    vectors[-1] = 4  # makes most branches of a hierarchical model improbable, and nothing else
    output = 8 * np.eye(len(labels), dtype="<f4")
    # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t
    arguments = (len(labels), 5, 1, 1, 5, 1, loss, _SUPERVISED, 0, 0, 0, 100, 1e-4)
    parts = [struct.pack("<2i", _MAGIC, _VERSION), struct.pack("<12id", *arguments)]
    size = len(entries) + len(labels)
    parts.append(struct.pack("<3i2q", size, len(entries), len(labels), 1000, -1))
    for name, kind in [*entries, *((label, _LABEL_TYPE) for label in labels)]:
        parts.append(name.encode() + b"\0" + struct.pack("<qb", 10, kind))
    for matrix in (vectors, output):
        parts.append(struct.pack("<?2q", False, *matrix.shape) + matrix.tobytes())
    path.write_bytes(b"".join(parts))
