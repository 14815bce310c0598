"""MDS shards in the layout of MosaicML Streaming, written without it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np


def write_mds(path: Path, samples: list[dict[str, bytes]], encodings: dict[str, str]) -> bytes:
    """Write one MDS shard in the layout of streaming/base/format/mds/writer.py."""
    names = list(encodings)
    config = {
        "column_encodings": [encodings[name] for name in names],
        "column_names": names,
        "column_sizes": [None for _ in names],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": 1 << 26,
        "version": 2,
    }
    data = json.dumps(config, sort_keys=True).encode()
    bodies = []
    for sample in samples:
        sizes = b"".join(struct.pack("<I", len(sample[name])) for name in names)
        bodies.append(sizes + b"".join(sample[name] for name in names))
    offsets = np.cumsum([0, *map(len, bodies)]) + 4 + 4 * (len(bodies) + 1) + len(data)
    shard = struct.pack("<I", len(bodies)) + offsets.astype("<u4").tobytes() + data
    shard += b"".join(bodies)
    path.write_bytes(shard)
    return shard


def array(values: np.ndarray, fixed: bool) -> bytes:
    """Encode an array as MosaicML Streaming does: [dtype] axes and width, shape, values."""
    head = b"" if fixed else bytes([32])
    return head + bytes([1 << 2 | 1]) + struct.pack("<H", len(values)) + values.tobytes()
