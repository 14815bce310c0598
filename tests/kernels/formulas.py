"""The operations written out in float64, one token or one pair at a time: what is right.

Nothing here is shared with the kernels. Where a kernel rounds an intermediate result to the
arguments' type by contract (the sum of add_layer_norm), so does its formula.
"""

import math

import torch
from torch import Tensor

# Documents of the lengths at which blocks begin and end.
LENGTHS = (1, 63, 64, 65, 129)


def cumulative(lengths: tuple[int, ...], padding: int = 0, device: str = "cpu") -> Tensor:
    """cu_seqlens of documents of these lengths, its last entry repeated `padding` times."""
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return torch.tensor(ends + ends[-1:] * padding, dtype=torch.int32, device=device)


def layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, weight = x.double(), weight.double()
    centered = x - x.mean(dim=-1, keepdim=True)
    return centered / (centered.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight


def geglu(x: Tensor) -> Tensor:
    activated, gate = x.double().chunk(2, dim=-1)
    return activated * (1 + torch.erf(activated / math.sqrt(2))) / 2 * gate


def rotary(qkv: Tensor, lengths: tuple[int, ...], base: float) -> Tensor:
    """By complex multiplication."""
    qkv = qkv.double()
    half = qkv.shape[3] // 2
    positions = torch.cat([torch.arange(length) for length in lengths]).to(qkv.device)
    frequencies = torch.tensor([base ** (-i / half) for i in range(half)], dtype=torch.float64)
    angles = torch.outer(positions.double(), frequencies.to(qkv.device))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None, None, :]
    turned = torch.complex(qkv[:, :2, :, :half], qkv[:, :2, :, half:]) * turn
    return torch.cat((torch.cat((turned.real, turned.imag), dim=-1), qkv[:, 2:]), dim=1)


def attention(qkv: Tensor, lengths: tuple[int, ...], window: int | None) -> Tensor:
    """With all pairs of tokens."""
    query, key, value = qkv.double().unbind(1)
    tokens = qkv.shape[0]
    document = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)]).to(qkv.device)
    position = torch.arange(tokens, device=qkv.device)
    seen = document[:, None] == document[None, :]
    if window is not None:
        seen = seen & ((position[:, None] - position[None, :]).abs() <= window // 2)
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(qkv.shape[3])
    scores = scores.masked_fill(~seen, -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), value)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, weights: Tensor
) -> Tensor:
    logits = hidden.double() @ weight.double().T + bias.double()
    chosen = logits[torch.arange(len(labels)), labels.clamp(min=0)]
    losses = (logits.logsumexp(dim=-1) - chosen) * weights.double()
    return torch.where((labels < 0) | (weights == 0), torch.zeros_like(losses), losses)


def stable_adamw(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    betas: tuple[float, float],
    step: int,
    eps: float,
    learning_rate: float,
    peak_learning_rate: float,
    weight_decay: float,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """One tensor's (parameter, exp_avg, exp_avg_sq, RMS) after a step, by bias-corrected averages.

    Adam's averages with the usual correction, from which the debiased form follows: if M is the
    biased average, m = M / (1 - beta^t).
    """
    parameter, gradient = parameter.double(), gradient.double()
    moments = []
    for beta, old, new in zip(
        betas, (exp_avg, exp_avg_sq), (gradient, gradient.square()), strict=True
    ):
        biased = beta * old.double() * (1 - beta ** (step - 1)) + (1 - beta) * new
        moments.append(biased / (1 - beta**step))
    m, v = moments
    rms = (gradient.square() / v.clamp(min=eps**2)).mean().sqrt().item()
    rate = learning_rate / max(1.0, rms)
    parameter = parameter * (1 - rate / peak_learning_rate * weight_decay)
    return parameter - rate * m / (v.sqrt() + eps), m, v, rms
