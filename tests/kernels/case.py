"""Description of a fused operation, shared by the tests of values, layouts and compilation and by
the benchmarks.

An operation's cases are the `CASES` of its file in tests/kernels/cases/.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the arguments; each operation uses some of them."""

    lengths: tuple[int, ...]
    """Tokens of each document."""
    width: int = 48
    """Hidden size."""
    inner: int = 24
    """Width of one half of the gated unit."""
    heads: int = 2
    head_size: int = 16
    vocabulary: int = 37
    masked: int = 11
    """Masked positions, gathered rows and rows of the vocabulary head."""
    chunk: int | None = None
    """Rows of the vocabulary head per chunk of logits."""

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return sum(self.lengths)


@dataclass(frozen=True)
class Problem:
    """An operation with arguments: those with requires_grad are differentiated."""

    arguments: tuple[Tensor, ...]
    call: Function
    """The operation on the arguments."""
    formula: Function
    """The operation on the same arguments in float64, sharing nothing with the kernels."""


@dataclass(frozen=True)
class Benchmark:
    """An operation at one shape: minimum memory traffic and FLOPs, and other implementations."""

    name: str
    arguments: tuple[Tensor, ...]
    """Those with requires_grad are differentiated."""
    ours: Function
    eager: Function
    """Plain PyTorch."""
    forward_bytes: float = 0.0
    both_bytes: float = 0.0
    """Of the forward and the backward pass."""
    forward_flops: float = 0.0
    both_flops: float = 0.0
    public: dict[str, Function] = field(default_factory=dict)
    """Installed implementations by name."""


# Document lengths around the edges of blocks.
LENGTHS = (1, 63, 64, 65, 129)
SMALL = Sizes((5, 1, 17, 9))
EMPTY = Sizes((0,), masked=0)


def float32_roundings(dtype: torch.dtype) -> float:
    """Return the tolerance of float32 sums of some hundred terms.

    In half precision up to eight results rounded to `dtype` instead: PyTorch's layer norm on a CPU
    rounds its statistics, which makes about four.
    """
    return 8 if dtype in (torch.float16, torch.bfloat16) else 32


@dataclass(frozen=True)
class Case:
    """A fused operation in one form."""

    name: str
    """The file's name, and after a hyphen the form if there are several."""
    problem: Callable[[Sizes, torch.dtype], Problem]
    """Creates random arguments on the default device; differentiated ones have the given dtype."""
    sizes: tuple[Sizes, ...] = (SMALL,)
    """Sizes at which values are compared."""
    roundings: Callable[[torch.dtype], float] = float32_roundings
    """Allowed error of outputs and gradients in roundings of the largest value, by dtype."""
    same_upstream: bool = False
    """Whether all elements of an output must have the same upstream gradient."""
    any_layout: bool = True
    """Whether arguments may have any strides."""
    triton_kernels: tuple[str, ...] = ()
    """Names of the Triton kernels that forward and backward launch; empty if there are none."""
    trace_names: tuple[str, ...] = ()
    """Prefixes of the autograd functions' names, which identify the operation in a trace."""
    benchmarks: Callable[[Sizes, torch.dtype], Iterable[Benchmark]] | None = None
    """The operation and other implementations at a training step's sizes."""

    @property
    def operation(self) -> str:
        """The file's name."""
        return self.name.partition("-")[0]


def normal(*shape: int, dtype: torch.dtype, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Create a differentiated argument with normally distributed values."""
    return (torch.randn(*shape) * scale + shift).to(dtype).requires_grad_()


def cumulative(lengths: tuple[int, ...], padding: int = 0, device: str | None = None) -> Tensor:
    """Return cu_seqlens of documents of these lengths, padded by `padding` entries."""
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return torch.tensor(ends + ends[-1:] * padding, dtype=torch.int32, device=device)


def document_lengths(cu_seqlens: Tensor) -> list[int]:
    """Return the lengths that `cumulative` was given, including those of its padding."""
    lengths: list[int] = cu_seqlens.diff().tolist()
    return lengths
