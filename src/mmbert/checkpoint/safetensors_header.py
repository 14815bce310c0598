"""Header of a safetensors file that is written tensor by tensor."""

import json
from collections.abc import Mapping, Sequence


def safetensors_header(
    tensors: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int]]:
    """Build the header of a safetensors file with tensors in the given order.

    The format is 8 bytes of length, JSON, then the tensors. The writer of safetensors itself is
    not used since it takes copies of all tensors at once and cannot compute a checksum on the fly.

    Args:
        tensors: dtype in the format's spelling ("F32"), shape and size in bytes, by name.
        metadata: contents of `__metadata__`.

    Returns:
        The header, and the byte offset of each tensor from the end of the header.
    """
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offsets, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        offsets[name] = end
        end += size
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets
