"""Writes the shards beside it with MosaicML's own MDSWriter: `python write.py`.

Needs mosaicml-streaming (0.13.0 wrote these), in an environment of its own: it pins older versions
of numpy and transformers. The ids are arithmetic, no one's text; the tests know the same formula.
"""

import shutil
from pathlib import Path

import numpy as np
from streaming import MDSWriter

HERE = Path(__file__).parent
# Around the limits of shapes of one and two bytes.
LENGTHS = (1, 7, 255, 256, 300, 70_000)


def ids(number: int) -> np.ndarray:
    """Return the ids of document `number`: int64, between 5 and 1,004."""
    return (np.arange(LENGTHS[number]) * 31 + number * 389) % 1000 + 5


# folder -> encodings, compression, dtype of the ids ("" for text)
FORMS = {
    # as published by the authors of mmBERT
    "uint32_zstd": ({"input_ids": "ndarray:uint32", "id": "str"}, "zstd", "uint32"),
    "int32_zstd": ({"input_ids": "ndarray:int32"}, "zstd:19", "int32"),
    "uint16_zstd": ({"input_ids": "ndarray:uint16", "id": "str"}, "zstd", "uint16"),
    "int64_gzip": ({"input_ids": "ndarray:int64", "length": "int"}, "gz", "int64"),
    "dynamic_zstd": ({"input_ids": "ndarray", "id": "str"}, "zstd", "uint16"),
    "fixed_plain": ({"input_ids": "ndarray:int32:300", "id": "str"}, None, "int32"),
    # llm-foundry: raw bytes of int64, in newer versions int32
    "bytes_int64_zstd": ({"tokens": "bytes"}, "zstd", "int64"),
    "bytes_int32_zstd": ({"tokens": "bytes"}, "zstd", "int32"),
}


def main() -> None:
    for name, (columns, compression, dtype) in FORMS.items():
        shutil.rmtree(HERE / name, ignore_errors=True)
        numbers = [4] if name.startswith("fixed") else range(len(LENGTHS))
        with MDSWriter(
            columns=columns, out=str(HERE / name), compression=compression, size_limit=1 << 19
        ) as writer:
            for number in numbers:
                array = ids(number).astype(dtype)
                raw = columns.get("tokens") == "bytes"
                sample = {"input_ids": array, "tokens": array.tobytes() if raw else array}
                sample |= {"id": f"document {number}", "length": len(array)}
                writer.write({column: sample[column] for column in columns})


if __name__ == "__main__":
    main()
