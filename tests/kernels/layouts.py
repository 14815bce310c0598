"""Every public operation on arguments laid out otherwise in memory, and on none at all.

Run on the CPU's implementations by test_references.py and on the Triton kernels by test_triton.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import mmbert_kernels as kernels
from tests.kernels.formulas import cumulative

LENGTHS = (5, 1, 17, 9)
TOKENS, WIDTH, HEADS, SIZE, WORDS = sum(LENGTHS), 48, 2, 16, 37
MASKED = 11


@dataclass(frozen=True)
class Operation:
    """A call with its arguments; those of floating type are differentiated unless `constant`."""

    call: Callable[..., Tensor | tuple[Tensor, ...]]
    arguments: tuple[Tensor, ...]
    constant: tuple[int, ...] = ()

    def run(self, arguments: tuple[Tensor, ...]) -> list[Tensor]:
        """Outputs, then gradients for upstream gradients of one number."""
        leaves = [
            argument.detach().requires_grad_()
            if argument.is_floating_point() and place not in self.constant
            else argument
            for place, argument in enumerate(arguments)
        ]
        out = self.call(*leaves)
        outputs = out if isinstance(out, tuple) else (out,)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        total = torch.stack([output.float().sum() for output in outputs]).sum()
        return [*(output.detach() for output in outputs), *torch.autograd.grad(total, wanted)]


def operations(tokens: int, masked: int) -> dict[str, Operation]:
    """All of them over `tokens` tokens (TOKENS or 0), on torch's default device."""
    lengths = LENGTHS if tokens else (0,)
    cu_seqlens = cumulative(lengths, 2, str(torch.get_default_device()))
    x, residual = torch.randn(2, tokens, WIDTH)
    weight, table = torch.rand(WIDTH) + 0.5, torch.randn(WORDS, WIDTH)
    ids = torch.randint(0, WORDS, (tokens,))
    positions = torch.randint(0, max(tokens, 1), (masked,))
    labels = torch.randint(0, WORDS, (masked,))
    factors = torch.ones(masked)
    if masked:
        factors[3] = 0.0
    qkv = torch.randn(tokens, 3, HEADS, SIZE)
    return {
        "layer_norm": Operation(lambda x, w: kernels.layer_norm(x, w, 1e-5), (x, weight)),
        "prenorm_layer_norm": Operation(
            lambda x, w: kernels.prenorm_layer_norm(x, w, 1e-5), (x, weight)
        ),
        "add_layer_norm": Operation(
            lambda x, r, w: kernels.add_layer_norm(x, r, w, 1e-5), (x, residual, weight)
        ),
        "embedding_layer_norm": Operation(
            lambda ids, t, w: kernels.embedding_layer_norm(ids, t, w, 1e-5), (ids, table, weight)
        ),
        "geglu": Operation(kernels.geglu, (x,)),
        "rotary": Operation(lambda q, c: kernels.rotary(q * 1, c, 1e4), (qkv, cu_seqlens)),
        "attention": Operation(lambda q, c: kernels.attention(q, c, 17, None), (qkv, cu_seqlens)),
        "attention in a window": Operation(
            lambda q, c: kernels.attention(q, c, 17, 6), (qkv, cu_seqlens)
        ),
        "rotary_attention": Operation(
            lambda q, c: kernels.rotary_attention(q * 1, c, 17, 6, 1e4), (qkv, cu_seqlens)
        ),
        "add_layer_norm with dropout": Operation(
            lambda x, r, w: kernels.add_layer_norm(x, r, w, 1e-5, kernels.Dropout(0.3, 7, 11)),
            (x, residual, weight),
        ),
        "gather_rows": Operation(
            kernels.gather_rows, (torch.randn(max(tokens, 4), WIDTH), positions)
        ),
        "linear_cross_entropy": Operation(
            lambda h, w, b, y, u: kernels.linear_cross_entropy(h, w, b, y, weights=u, chunk=4),
            (torch.randn(masked, WIDTH), table, torch.randn(WORDS), labels, factors),
            constant=(4,),
        ),
    }


def apart(tensor: Tensor) -> Tensor:
    """The same values with others between them that must not be read."""
    wrong = torch.full_like(tensor, torch.nan if tensor.is_floating_point() else -(10**6))
    return torch.stack((tensor, wrong), dim=-1)[..., 0]


def transposed(tensor: Tensor) -> Tensor:
    """The same values, the first dimension the fastest."""
    order = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(order).contiguous().permute(order)


def check_layouts(name: str) -> None:
    """Assert that the operation gives the same whatever the layout of its arguments."""
    operation = operations(TOKENS, MASKED)[name]
    expected = operation.run(operation.arguments)
    for layout in (apart, transposed):
        arguments = tuple(layout(argument) for argument in operation.arguments)
        assert any(not argument.is_contiguous() for argument in arguments)
        for one, other in zip(operation.run(arguments), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def check_nothing(name: str) -> None:
    """Assert that no tokens give no outputs, and zero as the gradient of weights."""
    operation = operations(0, 0)[name]
    results = operation.run(operation.arguments)
    assert results[0].shape[0] == 0
    for result in results:
        assert not result.any()


NAMES = tuple(operations(0, 0))
