"""The Triton kernels against the formulae in float64.

`make test-gpu` runs these compiled, in bfloat16 too. In `make test` they run in Triton's
interpreter, in a process of their own (test_triton_interpreter.py), in float32 and float16: its
bfloat16 is wrong. Memory that a kernel is to write is filled with NaN beforehand.
"""

from collections.abc import Iterator

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.norms.dropout import keep_mask
from mmbert_kernels.rotary import rotary_unpacked
from mmbert_kernels.scatter_rows import scatter_rows_triton
from mmbert_kernels.support.dispatch import backend, triton_interprets
from tests.kernels import formulas, layouts
from tests.kernels.comparison import assert_close, compare
from tests.kernels.formulas import LENGTHS, cumulative
from tests.kernels.test_stable_adamw import (
    check_no_elements,
    check_padding,
    check_steps,
    run_steps,
    spiking_gradients,
)
from tests.kernels.test_vocabulary_parallel import check_ranks

INTERPRETED = triton_interprets()
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPES = (torch.float32, torch.float16) + (() if INTERPRETED else (torch.bfloat16,))
TOKENS = sum(LENGTHS)
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choose Triton, fix the seed, and have uninitialised memory hold NaN."""
    monkeypatch.setenv("MMBERT_KERNELS", "triton")
    backend.cache_clear()
    torch.manual_seed(21)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    backend.cache_clear()


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


@pytest.mark.parametrize("shape", [(1, 8), (13, 96), (50, 768), (7, 1000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    compare(
        lambda x, w: kernels.layer_norm(x, w, 1e-5),
        lambda x, w: formulas.layer_norm(x, w, 1e-5),
        (randn(*shape, dtype=dtype) * 3 + 1, randn(shape[1], dtype=dtype)),
        (randn(*shape),),
        roundings=32,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_layer_norm(dtype: torch.dtype) -> None:
    def formula(x, residual, weight):
        total = x + residual
        total = total + (total.to(dtype).double() - total).detach()
        return formulas.layer_norm(total, weight, 1e-5), total

    compare(
        lambda *arguments: kernels.add_layer_norm(*arguments, 1e-5),
        formula,
        (randn(37, 96, dtype=dtype), randn(37, 96, dtype=dtype) * 4, randn(96, dtype=dtype)),
        (randn(37, 96), randn(37, 96)),
        roundings=32,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_norm_is_that_of_the_sum_that_is_given(dtype: torch.dtype, share: float) -> None:
    """To the bit: the backward pass and recomputation have the rounded sum alone."""
    x, residual, weight = randn(37, 96, dtype=dtype), randn(37, 96, dtype=dtype) * 4, randn(96)
    dropout = kernels.Dropout(share, 5) if share else None
    normed, total = kernels.add_layer_norm(x, residual, weight.to(dtype), 1e-5, dropout)
    assert torch.equal(normed, kernels.layer_norm(total, weight.to(dtype), 1e-5))


def test_add_layer_norm_with_one_output_used() -> None:
    x, residual, weight = randn(9, 40), randn(9, 40), randn(40)
    compare(
        lambda x, r, w: kernels.add_layer_norm(x, r, w, 1e-5)[0],
        lambda x, r, w: formulas.layer_norm(x + r, w, 1e-5),
        (x, residual, weight),
        (randn(9, 40),),
        roundings=32,
    )
    compare(
        lambda x, r: kernels.add_layer_norm(x, r, weight, 1e-5)[1],
        lambda x, r: x + r,
        (x, residual),
        (randn(9, 40),),
        roundings=1,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_branching_layer_norm(dtype: torch.dtype) -> None:
    x, weight = randn(37, 96, dtype=dtype) * 3 + 1, randn(96, dtype=dtype)
    compare(
        lambda x, w: kernels.prenorm_layer_norm(x, w, 1e-5),
        lambda x, w: (formulas.layer_norm(x, w, 1e-5), x),
        (x, weight),
        (randn(37, 96), randn(37, 96)),
        roundings=32,
    )
    # a branch may come to nothing
    for used, formula in ((0, formulas.layer_norm(x, weight, 1e-5)), (1, x.double())):
        leaf = x.clone().requires_grad_()
        out = kernels.prenorm_layer_norm(leaf, weight, 1e-5)[used]
        assert_close("output", out.detach(), formula, 32)
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        assert gradient.isfinite().all()
        assert used == 0 or (gradient == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_layer_norm(dtype: torch.dtype) -> None:
    ids = torch.randint(0, 50, (300,), device=DEVICE)
    ids[:130] = 7  # one frequent token, whose gradient is a sum over several blocks
    compare(
        lambda table, w: kernels.embedding_layer_norm(ids, table, w, 1e-5),
        lambda table, w: formulas.layer_norm(table[ids], w, 1e-5),
        (randn(50, 48, dtype=dtype), randn(48, dtype=dtype)),
        (randn(300, 48),),
        roundings=32,
    )


@pytest.mark.parametrize("width", [8, 130, 1152])
@pytest.mark.parametrize("dtype", DTYPES)
def test_geglu(dtype: torch.dtype, width: int) -> None:
    compare(
        kernels.geglu,
        formulas.geglu,
        (randn(19, 2 * width, dtype=dtype) * 2,),
        (randn(19, width),),
        roundings=16,
    )


@pytest.mark.parametrize(("heads", "size"), [(2, 16), (3, 64), (1, 24)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary(dtype: torch.dtype, heads: int, size: int) -> None:
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(LENGTHS, 4, str(DEVICE)), 160_000.0),
        lambda qkv: formulas.rotary(qkv, LENGTHS, 160_000.0),
        (randn(TOKENS, 3, heads, size, dtype=dtype),),
        (randn(TOKENS, 3, heads, size),),
        roundings=256 if dtype == torch.float32 else 2,
    )


def test_rotary_up_to_the_longest_context() -> None:
    """An angle of 8,191 has 8,192 times the rounding of one at 1. (The interpreter, at some 200
    tokens a second, goes up to a quarter of that.)"""
    lengths = (1, 2048, 33) if INTERPRETED else (1, 8192, 1024)
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(lengths, 0, str(DEVICE)), 160_000.0),
        lambda qkv: formulas.rotary(qkv, lengths, 160_000.0),
        (randn(sum(lengths), 3, 1, 8),),
        (randn(sum(lengths), 3, 1, 8),),
        roundings=max(lengths),
    )


def test_rotary_finds_documents_behind_empty_ones() -> None:
    lengths = (0, 5, 0, 0, 1, 90, 0)
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(lengths, 9, str(DEVICE)), 10_000.0),
        lambda qkv: formulas.rotary(qkv, lengths, 10_000.0),
        (randn(96, 3, 1, 16),),
        (randn(96, 3, 1, 16),),
        roundings=256,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_works_in_place_on_what_is_given_away(dtype: torch.dtype) -> None:
    cu_seqlens = cumulative(LENGTHS, 2, str(DEVICE))
    x = randn(TOKENS, 3 * 2 * 16, dtype=dtype).requires_grad_()
    linear = x + 0.0  # what the model hands over: a view of a linear's output
    qkv = linear.view(TOKENS, 3, 2, 16)
    before = qkv.detach().clone()
    rotated = kernels.rotary(qkv, cu_seqlens, 10_000.0)
    assert rotated.data_ptr() == linear.data_ptr()
    assert torch.equal(rotated[:, 2], before[:, 2])
    roundings = 256 if dtype == torch.float32 else 2
    assert_close("rotated", rotated, formulas.rotary(before, LENGTHS, 10_000.0), roundings)
    upstream = randn(TOKENS, 3, 2, 16, dtype=dtype)
    given = upstream.clone()
    (gradient,) = torch.autograd.grad(rotated, x, given)
    assert gradient.data_ptr() == given.data_ptr()
    true = before.double().requires_grad_()
    formulas.rotary(true, LENGTHS, 10_000.0).backward(upstream.double())
    assert_close("gradient", gradient.view_as(true), true.grad, roundings)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_brings_three_gradients_together(dtype: torch.dtype, heads: int) -> None:
    """Of any layout each; what lies between their elements is not read, and they stay as given."""
    cu_seqlens, size = cumulative(LENGTHS, 2, str(DEVICE)), 16
    roundings = 256 if dtype == torch.float32 else 2
    x = randn(TOKENS, 3 * heads * size, dtype=dtype).requires_grad_()
    linear = x + 0.0
    before = linear.detach().clone().view(TOKENS, 3, heads, size)
    parts = rotary_unpacked(linear.view(TOKENS, 3, heads, size), cu_seqlens, 10_000.0)
    assert parts[0].data_ptr() == linear.data_ptr()
    true = before.double().requires_grad_()
    expected = formulas.rotary(true, LENGTHS, 10_000.0)
    for part, whole in zip(parts, expected.unbind(1), strict=True):
        assert_close("part", part.detach(), whole.detach(), roundings)
    upstream = randn(TOKENS, 3, heads, size, dtype=dtype)
    plain = [part.contiguous() for part in upstream.unbind(1)]
    given = [plain[0], layouts.transposed(plain[1]), layouts.apart(plain[2])]
    (gradient,) = torch.autograd.grad(parts, x, given)
    expected.backward(upstream.double())
    assert true.grad is not None
    assert_close("gradient", gradient.view_as(true), true.grad, roundings)
    for left, right in zip(given, plain, strict=True):
        assert torch.equal(left, right)


def test_rotary_needs_no_gradient_of_every_part() -> None:
    qkv = randn(TOKENS, 3, 1, 8).requires_grad_()
    _, key, _ = rotary_unpacked(qkv, cumulative(LENGTHS, 2, str(DEVICE)), 10_000.0)
    (gradient,) = torch.autograd.grad(key.square().sum() / 2, qkv)
    assert_close("gradient", gradient[:, 1], qkv.detach()[:, 1].double(), 64)
    assert (gradient[:, ::2] == 0).all()


def test_rotary_leaves_parameters_as_they_are() -> None:
    leaf = randn(TOKENS, 3, 1, 16).requires_grad_()
    before = leaf.detach().clone()
    kernels.rotary(leaf, cumulative(LENGTHS, 0, str(DEVICE)), 1e4).sum().backward()
    assert torch.equal(leaf.detach(), before)
    shared = torch.ones(1, 3, 1, 16, device=DEVICE).expand(TOKENS, 3, 1, 16)
    rotated = kernels.rotary(shared, cumulative(LENGTHS, 0, str(DEVICE)), 1e4)
    assert_close("shared", rotated, formulas.rotary(shared, LENGTHS, 1e4), 256)
    assert (shared == 1).all()


@pytest.mark.parametrize("first_token", [0, 3, 2**33 + 5, 2_999_999_999_999])
def test_dropout_has_the_masks_of_the_reference(first_token: int) -> None:
    ones, zeros = torch.ones(70, 96, device=DEVICE), torch.zeros(70, 96, device=DEVICE)
    for seed in (0, 21, 2**63 + 11, -1):
        dropout = kernels.Dropout(0.3, seed, first_token)
        _, out = kernels.add_layer_norm(ones, zeros, ones[0], 1e-5, dropout)
        assert torch.equal(out != 0, keep_mask(dropout, 70, 96, DEVICE))


@pytest.mark.parametrize("shape", [(37, 200), (3, 1000), (50, 384)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_layer_norm_after_dropout(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    dropout = kernels.Dropout(0.1, 5, 11)
    keep = keep_mask(dropout, *shape, DEVICE)

    def formula(x, residual, weight):
        total = residual + torch.where(keep, x, 0.0) * dropout.scale
        total = total + (total.to(dtype).double() - total).detach()
        return formulas.layer_norm(total, weight, 1e-5), total

    compare(
        lambda *arguments: kernels.add_layer_norm(*arguments, 1e-5, dropout),
        formula,
        (randn(*shape, dtype=dtype), randn(*shape, dtype=dtype) * 4, randn(shape[1], dtype=dtype)),
        (randn(*shape), randn(*shape)),
        roundings=32,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_rows(dtype: torch.dtype) -> None:
    positions = torch.randint(0, 40, (150,), device=DEVICE)
    positions[50:120] = 0  # what unfilled slots point to
    positions[positions == 17] = 16  # a row that nothing gathers
    compare(
        lambda x: kernels.gather_rows(x, positions),
        lambda x: x[positions],
        (randn(40, 150, dtype=dtype),),
        (randn(150, 150),),
        roundings=8,
    )


def test_gather_rows_that_ascend() -> None:
    positions = torch.randperm(300, device=DEVICE)[:90].sort().values
    positions[-20:] = positions[-21]  # what unfilled slots point to
    compare(
        lambda x: kernels.gather_rows(x, positions, ascending=True),
        lambda x: x[positions],
        (randn(300, 150),),
        (randn(90, 150),),
        roundings=32,
    )
    if INTERPRETED:  # a GPU's assertion would end the process
        with pytest.raises(RuntimeError, match="the positions do not ascend"):
            kernels.gather_rows(randn(300, 8), positions.flip(0), ascending=True)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 257, 600, 1500])
@pytest.mark.parametrize("ascending", [False, True])
def test_scatter_of_runs_of_every_length(count: int, ascending: bool) -> None:
    """Runs that begin and end inside, at and across the edges of blocks, up to 30 blocks long."""
    places = torch.randint(0, 12, (count,), device=DEVICE)
    places[count // 3 :] = places[count // 3 :].clamp(min=5, max=6)
    if count == 1500:
        places[:1300] = 5
    if ascending:
        places = places.sort().values
    grad = randn(count, 20)
    true = torch.zeros(15, 20, dtype=torch.float64, device=DEVICE)
    true.index_add_(0, places, grad.double())
    sums = scatter_rows_triton(grad, places, 15, ascending=ascending)
    assert_close("sums", sums, true, roundings=64)
    assert torch.equal(sums, scatter_rows_triton(grad, places, 15, ascending=ascending))


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 63, 64, 65])
def test_scatter_of_runs_of_one_length(size: int) -> None:
    """Every way in which runs of one length lie across the edges of blocks of 32."""
    places = torch.arange(40 * size, device=DEVICE) // size
    grad = randn(40 * size, 8)
    true = torch.zeros(41, 8, dtype=torch.float64, device=DEVICE)
    true.index_add_(0, places, grad.double())
    assert_close("sums", scatter_rows_triton(grad, places, 41, ascending=True), true, roundings=64)


@pytest.mark.parametrize(("vocabulary", "chunk"), [(101, 10), (4097, 300), (5000, None)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_cross_entropy(dtype: torch.dtype, vocabulary: int, chunk: int | None) -> None:
    rows, width = (37, 16) if vocabulary < 5000 else (270, 16)
    labels = torch.randint(0, vocabulary, (rows,), device=DEVICE)
    weights = torch.rand(rows, device=DEVICE) + 0.5
    weights[4], labels[4], labels[9] = 0.0, 10**6, -100
    true_weights, labels_seen = weights.clone(), labels.clone()
    true_weights[9], labels_seen[4] = 0.0, 0
    compare(
        lambda h, w, b: kernels.linear_cross_entropy(
            h, w, b, labels.clone(), weights=weights, chunk=chunk
        ),
        lambda h, w, b: formulas.linear_cross_entropy(h, w, b, labels_seen, true_weights),
        (
            randn(rows, width, dtype=dtype),
            randn(vocabulary, width, dtype=dtype),
            randn(vocabulary, dtype=dtype),
        ),
        (torch.full((rows,), 0.375, device=DEVICE),),
        # losses are float32, but the logits behind them have the arguments' type
        roundings=64 if dtype == torch.float32 else 2.0**15,
    )


@pytest.mark.skipif(not INTERPRETED, reason="needs several GPUs and NCCL")
def test_linear_cross_entropy_with_the_vocabulary_split() -> None:
    check_ranks(2, 10, "triton")


def test_stable_adamw() -> None:
    start = torch.randn(73005, device=DEVICE)
    gradients = [gradient.to(DEVICE) for gradient in spiking_gradients()[-3:]]
    parameters, rms = run_steps((), gradients, start)
    check_steps(parameters, rms, gradients, start)
    cut, _ = run_steps((2, 3005, 40_000), gradients, start)
    torch.testing.assert_close(cut, parameters, rtol=1e-6, atol=1e-7)


def test_stable_adamw_leaves_padding_alone_and_takes_nothing() -> None:
    check_padding(DEVICE)
    check_no_elements(DEVICE)


# What attention runs on a GPU takes half precision and is tested in test_implementation.py.
NAMES = [name for name in layouts.NAMES if not name.startswith("attention")]


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_memory_layout(name: str) -> None:
    with DEVICE:
        layouts.check_layouts(name)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_gives_nothing(name: str) -> None:
    with DEVICE:
        layouts.check_nothing(name)


def test_expanded_gradients_are_read_right() -> None:
    """The gradient of a sum is one number with strides of zero."""
    x, weight = randn(11, 40).requires_grad_(), randn(40)
    kernels.layer_norm(x, weight, 1e-5).sum().backward()
    true = x.detach().double().requires_grad_()
    formulas.layer_norm(true, weight, 1e-5).sum().backward()
    assert x.grad is not None
    assert true.grad is not None
    assert_close("gradient", x.grad, true.grad, 512)


@pytest.mark.skipif(not INTERPRETED, reason="takes 9 GB that only the interpreter leaves untouched")
def test_rows_more_than_two_to_the_31_elements_apart() -> None:
    """Offsets are 64 bits wide: the third row lies 2^31 elements behind the first."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # no page but the rows' is touched
    try:
        far = torch.empty(2**31 + 256, dtype=torch.float16).as_strided((3, 96), (2**30, 1))
        far.copy_(randn(3, 96))
        near, other, weight = far.contiguous(), randn(3, 96).half(), randn(96).half()
        for function in (
            lambda x: kernels.layer_norm(x, weight, 1e-5),
            lambda x: kernels.add_layer_norm(x, other, weight, 1e-5)[0],
            lambda x: kernels.add_layer_norm(other, x, weight, 1e-5)[0],
            lambda x: kernels.embedding_layer_norm(torch.arange(3), x, weight, 1e-5),
            lambda x: kernels.add_layer_norm(x, other, weight, 1e-5, kernels.Dropout(0.3, 7))[0],
            kernels.geglu,
            lambda x: scatter_rows_triton(x, torch.arange(3), 3),
            lambda x: kernels.rotary(x.unflatten(1, (3, 2, 16)), cumulative((3,)), 1e4),
        ):
            expected = function(near.clone())
            assert torch.equal(function(far), expected)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.skipif(INTERPRETED, reason="needs 6 GB of a GPU")
def test_a_chunk_of_more_than_two_to_the_31_logits() -> None:
    rows, words = 8448, 256_000
    labels = torch.randint(0, words, (rows,), device=DEVICE)
    arguments = [
        (randn(*shape) * scale).bfloat16()
        for shape, scale in (((rows, 64), 1.0), ((words, 64), 0.05), ((words,), 1.0))
    ]
    results = []
    for chunk in (rows, 1024):
        leaves = [argument.clone().requires_grad_() for argument in arguments]
        losses = kernels.linear_cross_entropy(*leaves, labels, chunk=chunk)
        losses.sum().backward()
        results.append([losses.detach(), *(leaf.grad for leaf in leaves)])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, rtol=2**-6, atol=2**-6)


def test_float64_is_refused() -> None:
    x = torch.zeros(2, 8, dtype=torch.float64, device=DEVICE)
    with pytest.raises(ValueError, match="MMBERT_KERNELS=reference takes any floating type"):
        kernels.geglu(x)
