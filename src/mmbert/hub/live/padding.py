"""Padded batches to packed rows of their real tokens, and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbert.errors import ModelError
from mmbert.hub.live.detours import DetourError
from mmbert_kernels import gather_rows

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Padding:
    """Where the T real tokens of a padded batch [B, S] are."""

    batch: int
    width: int
    indices: Tensor | None
    """int64 [T], ascending: places of the real tokens in the flattened batch; None if all are."""
    cu_seqlens: Tensor
    """int32 [texts + 1]: start of each text with a real token in the packed row, from 0 to T."""
    max_seqlen: int

    def pack(self, padded: Tensor) -> Tensor:
        """[B, S, ...] -> [T, ...]."""
        flat = padded.reshape(self.batch * self.width, *padded.shape[2:])
        if self.indices is None:
            return flat
        if flat.requires_grad and flat.ndim == 2:
            return gather_rows(flat, self.indices, ascending=True)
        return flat.index_select(0, self.indices)

    def unpack(self, rows: Tensor) -> Tensor:
        """[T, ...] -> [B, S, ...], 0 at the padding."""
        if self.indices is not None:
            flat = rows.new_zeros(self.batch * self.width, *rows.shape[1:])
            rows = flat.index_copy(0, self.indices, rows)
        return rows.view(self.batch, self.width, *rows.shape[1:])


def find_padding(
    mask: object, batch: int, width: int, device: torch.device, *, counted: Tensor | None = None
) -> Padding:
    """Find the real tokens of a batch. Waits once for the device, to read the lengths.

    Args:
        mask: attention mask [B, S] of ones and zeros, whatever dtype; None if all tokens are real.
        batch: texts of the batch.
        width: tokens of the longest text, padding included.
        device: device of the result.
        counted: bool [B, S], tokens that the loss counts.

    Raises:
        DetourError: a mask with holes, of other values or of another shape, or a loss that counts
            padding.
        ModelError: no token is real.
    """
    if mask is None:
        lengths, firsts = [width] * batch, [0] * batch
    else:
        lengths, firsts = _read_mask(mask, (batch, width), counted)
    texts = [(n * width + first, length) for n, (first, length) in
             enumerate(zip(firsts, lengths, strict=True)) if length]  # fmt: skip
    if not texts:
        raise ModelError(
            f"the batch of {batch} × {width} tokens has no real token: its attention mask is 0"
            " everywhere",
            remedy="leave such batches out, or correct the attention mask",
        )
    begins, sizes = torch.tensor(texts).unbind(1)
    ends = sizes.cumsum(0)
    tokens = int(ends[-1])
    cu_seqlens = torch.cat([ends.new_zeros(1), ends])
    indices = None
    if tokens != batch * width:
        shifts, counts = torch.stack((begins - cu_seqlens[:-1], sizes)).to(device)
        indices = torch.repeat_interleave(shifts, counts, output_size=tokens)
        indices += torch.arange(tokens, device=device)
    return Padding(
        batch, width, indices, cu_seqlens.to(device, torch.int32), max_seqlen=int(sizes.max())
    )


def _read_mask(
    mask: object, shape: tuple[int, int], counted: Tensor | None
) -> tuple[list[int], list[int]]:
    """Return the number of real tokens of each text, and the place of its first."""
    if not isinstance(mask, Tensor):
        raise DetourError(f"an attention mask of type {type(mask).__name__}")
    if tuple(mask.shape) != shape:
        raise DetourError(f"an attention mask of {mask.ndim} dimensions, {list(mask.shape)}")
    real = mask.bool()
    edges = (real[:, 1:] & ~real[:, :-1]).sum(1) + real[:, 0]
    flags = [(edges > 1).any(), (mask != real).any()]
    if counted is not None:
        flags.append((counted & ~real).any())
    facts = torch.cat([torch.stack(flags).long(), real.sum(1), real.byte().argmax(1)]).tolist()
    holes, other_values, *more = facts[: len(flags)]
    if other_values:
        raise DetourError("an attention mask with other values than 0 and 1")
    if holes:
        raise DetourError("an attention mask with holes")
    if any(more):
        raise DetourError("labels at padding other than -100")
    lengths = facts[len(flags) :]
    return lengths[: shape[0]], lengths[shape[0] :]
