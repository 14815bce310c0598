"""A folder of MDS shards in the structure of mmBERT's repositories on the Hugging Face hub.

One language has a shard of MosaicML's own writer, unpacked as it is published; `write_mds`, whose
samples have the same bytes, writes the others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zstandard

from tests.support.mds_shards import array, write_mds

FIXTURES = Path(__file__).parents[1] / "data_prep" / "readers" / "formats" / "mds"
SETTINGS = "tokenized-chunked-8192-512-32-backfill-nodups"
SOURCE = "train/fineweb2-sampled-decay-v2"
REAL = f"{SOURCE}/deu_Latn-{SETTINGS}-sampled/000_00023-batch_0000-{SETTINGS}"
SAMPLED = f"{SOURCE}/ell_Grek_train-sampled/batch_0222-{SETTINGS}"
TEXT = "train/others/ind_Latn_train/batch_0019"
UNNAMED = (f"train/arxiv/arxiv_0001-{SETTINGS}", f"train/books/000-{SETTINGS}")
_PAD, _EOS, _BOS = 0, 1, 2


def write_hub_tree(folder: Path, tokens: Sequence[Sequence[int]], texts: Sequence[str]) -> None:
    """Write `tokens` (framed) as a language and as two sources without one, and packed `texts`."""
    real = folder / REAL
    real.mkdir(parents=True)
    shutil.copyfile(FIXTURES / "uint32_zstd" / "index.json", real / "index.json")
    packed = (FIXTURES / "uint32_zstd" / "shard.00000.mds.zstd").read_bytes()
    data = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    (real / "shard.00000.mds").write_bytes(data)
    columns = {"id": "str", "input_ids": "ndarray:uint32"}
    samples = [
        {
            "id": str(number).encode(),
            "input_ids": array(np.array([_BOS, *ids, _EOS], dtype="<u4"), True),
        }
        for number, ids in enumerate(tokens)
    ]
    for place in (SAMPLED, *UNNAMED):
        (folder / place).mkdir(parents=True)
        write_mds(folder / place / "shard.00000.mds", samples, columns)
        _describe(folder / place, ("index.json", "stats.json", "token_decile.json"))
    raw = folder / TEXT
    raw.mkdir(parents=True)
    shard = write_mds(
        raw / "shard.00000.mds", [{"text": t.encode()} for t in texts], {"text": "str"}
    )
    (raw / "shard.00000.mds").rename(raw / "shard.00000.mds.zstd")
    (raw / "shard.00000.mds.zstd").write_bytes(zstandard.compress(shard))
    _describe(raw, ("index.json",))
    # Merged files: in the folder of each language, of each source, of the split, and of all.
    above = {parent for place in (REAL, SAMPLED, TEXT, *UNNAMED) for parent in Path(place).parents}
    for parent in above:
        _describe(folder / parent, ("index.json", "num_tokens.json", "sampling_summary.json"))
    (folder / "dataset_stats.csv").write_text("source,tokens\nfineweb2,1\n")
    (folder / "README.md").write_text("not text to train on")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "index.json").write_text("{}")


def _describe(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        # As one line, which would be a record of JSON lines.
        (folder / name).write_text(
            json.dumps({"version": 2, "text": "a description", "shards": []})
        )
