"""The head of a safetensors file that is written tensor by tensor."""

import json
from collections.abc import Mapping, Sequence


def safetensors_header(
    tensors: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int]]:
    """The head of a safetensors file whose tensors follow each other in the order given.

    The format is 8 bytes of length, JSON, then the tensors. Written here because safetensors' own
    writer takes all tensors at once, in copies, and cannot be asked for a checksum as it goes.

    Args:
        tensors: for each name its dtype as the format spells it ("F32"), its shape and its bytes.
        metadata: what the file says of itself; None: nothing.

    Returns:
        The head, and where each tensor starts behind it, in bytes.
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
