"""The public operations as they run on CPU, against the formulae in float64."""

import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.support.dispatch import backend
from tests.kernels import formulas, layouts
from tests.kernels.comparison import assert_close, compare
from tests.kernels.formulas import LENGTHS, cumulative

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
TOKENS = sum(LENGTHS)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fix the seed and have uninitialised memory hold NaN."""
    torch.manual_seed(21)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(dtype: torch.dtype) -> None:
    x, weight = torch.randn(37, 96, dtype=dtype) * 3 + 1, torch.randn(96, dtype=dtype)
    compare(
        lambda x, w: kernels.layer_norm(x, w, 1e-5),
        lambda x, w: formulas.layer_norm(x, w, 1e-5),
        (x, weight),
        (torch.randn(37, 96),),
        roundings=32,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_layer_norm_normalises_the_rounded_sum(dtype: torch.dtype) -> None:
    x, residual = torch.randn(37, 96, dtype=dtype), torch.randn(37, 96, dtype=dtype) * 4
    weight = torch.randn(96, dtype=dtype)

    def formula(x, residual, weight):
        total = x + residual
        total = total + (total.to(dtype).double() - total).detach()
        return formulas.layer_norm(total, weight, 1e-5), total

    compare(
        lambda *arguments: kernels.add_layer_norm(*arguments, 1e-5),
        formula,
        (x, residual, weight),
        (torch.randn(37, 96), torch.randn(37, 96)),
        roundings=32,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_branching_layer_norm(dtype: torch.dtype) -> None:
    x, weight = torch.randn(37, 96, dtype=dtype) * 3 + 1, torch.randn(96, dtype=dtype)
    compare(
        lambda x, w: kernels.prenorm_layer_norm(x, w, 1e-5),
        lambda x, w: (formulas.layer_norm(x, w, 1e-5), x),
        (x, weight),
        (torch.randn(37, 96), torch.randn(37, 96)),
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
    ids = torch.randint(0, 50, (200,))
    ids[:60] = 7  # one frequent token, whose gradient is a long sum
    table, weight = torch.randn(50, 32, dtype=dtype), torch.randn(32, dtype=dtype)
    compare(
        lambda table, w: kernels.embedding_layer_norm(ids, table, w, 1e-5),
        lambda table, w: formulas.layer_norm(table[ids], w, 1e-5),
        (table, weight),
        (torch.randn(200, 32),),
        roundings=32,
    )


def test_embedding_of_an_id_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="ids go from 0 to 50, but the table has 50 rows"):
        kernels.embedding_layer_norm(torch.tensor([0, 50]), torch.zeros(50, 8), torch.ones(8), 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_geglu(dtype: torch.dtype) -> None:
    x = torch.randn(37, 96, dtype=dtype) * 2
    compare(kernels.geglu, formulas.geglu, (x,), (torch.randn(37, 48),), roundings=16)


@pytest.mark.parametrize("base", [10_000.0, 160_000.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary(dtype: torch.dtype, base: float) -> None:
    qkv = torch.randn(TOKENS, 3, 2, 16, dtype=dtype)
    # angles are float32 for every type: at position 128 a rounding of the angle is 128 of a
    # float32's at 1; in float64 the tables are the error
    roundings = 64 * 2.0**29 if dtype == torch.float64 else 256 if dtype == torch.float32 else 2
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(LENGTHS, padding=3), base),
        lambda qkv: formulas.rotary(qkv, LENGTHS, base),
        (qkv,),
        (torch.randn(TOKENS, 3, 2, 16),),
        roundings,
    )


def test_rotary_up_to_the_longest_context() -> None:
    """An angle of 8,191 has 8,192 times the rounding of one at 1."""
    lengths = (1, 8192, 1024)
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(lengths), 160_000.0),
        lambda qkv: formulas.rotary(qkv, lengths, 160_000.0),
        (torch.randn(sum(lengths), 3, 1, 8),),
        (torch.randn(sum(lengths), 3, 1, 8),),
        roundings=8192,
    )


@pytest.mark.parametrize("window", [None, 2, 16, 128, 1024])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(dtype: torch.dtype, window: int | None) -> None:
    lengths = (*LENGTHS, 5, 1, 40)
    qkv = torch.randn(sum(lengths), 3, 2, 16, dtype=dtype)
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths, padding=4), 129, window),
        lambda qkv: formulas.attention(qkv, lengths, window),
        (qkv,),
        (torch.randn(sum(lengths), 2, 16),),
        roundings=48,
    )


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 700])
def test_attention_in_a_window_over_rows_of_any_length(tokens: int) -> None:
    lengths = (tokens,)
    qkv = torch.randn(tokens, 3, 1, 16)
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths), tokens, 128),
        lambda qkv: formulas.attention(qkv, lengths, 128),
        (qkv,),
        (torch.randn(tokens, 1, 16),),
        roundings=48,
    )


def test_attention_over_long_documents() -> None:
    """Long enough for several blocks of queries, between documents that share a call."""
    lengths = (30, 5, 1100, 7, 300)
    qkv = torch.randn(sum(lengths), 3, 2, 16) * 2
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths), 1100, None),
        lambda qkv: formulas.attention(qkv, lengths, None),
        (qkv,),
        (torch.randn(sum(lengths), 2, 16),),
        roundings=64,
    )


def test_documents_do_not_see_each_other() -> None:
    """Not a matter of tolerance: another document's values change nothing at all."""
    qkv = torch.randn(TOKENS, 3, 2, 16)
    changed = qkv.clone()
    changed[1 + 63 :] = torch.randn(TOKENS - 64, 3, 2, 16) * 100
    for window in (None, 128):
        outputs = [
            kernels.attention(each, cumulative(LENGTHS), 129, window) for each in (qkv, changed)
        ]
        assert torch.equal(outputs[0][:64], outputs[1][:64])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_rows_adds_what_positions_share(dtype: torch.dtype) -> None:
    x = torch.randn(40, 24, dtype=dtype)
    positions = torch.tensor([0, 0, 39, 7, 0, 7, 12])
    compare(
        lambda x: kernels.gather_rows(x, positions),
        lambda x: x[positions],
        (x,),
        (torch.randn(7, 24),),
        roundings=8,
    )


def test_a_position_taken_a_thousand_times_gets_a_thousand_gradients() -> None:
    """In bfloat16, 256 + 1 is 256: the sum must be kept in float32."""
    x = torch.randn(3, 24, dtype=torch.bfloat16, requires_grad=True)
    kernels.gather_rows(x, torch.full((1000,), 1)).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0.0, 1000.0, 0.0]


@pytest.mark.parametrize("chunk", [1, 10, 64, None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_cross_entropy(dtype: torch.dtype, chunk: int | None) -> None:
    rows, width, vocabulary = 37, 16, 101
    hidden = torch.randn(rows, width, dtype=dtype)
    weight = torch.randn(vocabulary, width, dtype=dtype)
    bias = torch.randn(vocabulary, dtype=dtype)
    labels = torch.randint(0, vocabulary, (rows,))
    weights = torch.rand(rows) + 0.5
    weights[4], labels[4], labels[9] = 0.0, 10**6, -100
    true_weights = weights.clone()
    true_weights[9] = 0
    labels_seen = labels.clone()
    labels_seen[4] = 0
    compare(
        lambda h, w, b: kernels.linear_cross_entropy(h, w, b, labels, weights=weights, chunk=chunk),
        lambda h, w, b: formulas.linear_cross_entropy(h, w, b, labels_seen, true_weights),
        (hidden, weight, bias),
        (torch.full((rows,), 0.375),),
        # logits are of the arguments' type, so the loss has their error
        roundings=2.0**16 if dtype == torch.bfloat16 else 48,
    )


def test_losses_and_their_sum_are_float32_for_bfloat16_arguments() -> None:
    """Losses kept in bfloat16 would have steps of 1/16 here, and their sum would stand still."""
    hidden = torch.randn(512, 8, dtype=torch.bfloat16)
    weight, bias = torch.zeros(5000, 8, dtype=torch.bfloat16), torch.zeros(5000).bfloat16()
    losses = kernels.linear_cross_entropy(hidden, weight, bias, torch.arange(512), chunk=8)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.full((512,), 5000.0).log(), rtol=1e-4, atol=0)


def test_the_weight_gradient_can_be_had_in_float32() -> None:
    """Added to what is there; rounded to bfloat16 it is what autograd gives otherwise."""
    hidden = torch.randn(50, 16).bfloat16().requires_grad_()
    weight, bias = torch.randn(40, 16).bfloat16().requires_grad_(), torch.zeros(40).bfloat16()
    labels = torch.randint(0, 40, (50,))
    kernels.linear_cross_entropy(hidden, weight, bias, labels, chunk=20).sum().mul(0.25).backward()
    total = torch.zeros(40, 16)
    again = weight.detach().clone().requires_grad_()
    for _ in range(2):
        losses = kernels.linear_cross_entropy(
            hidden, again, bias, labels, chunk=20, main_grad=total
        )
        losses.sum().mul(0.25).backward()
    assert again.grad is None
    assert weight.grad is not None
    assert torch.equal((total / 2).bfloat16(), weight.grad)
    assert (total.bfloat16() != total).float().mean() > 0.9
    with pytest.raises(ValueError, match=r"main_grad must be float32\[40, 16\]"):
        kernels.linear_cross_entropy(hidden, weight, bias, labels, main_grad=total.half())


def test_only_one_gradient_for_all_losses() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    losses = kernels.linear_cross_entropy(hidden, weight, torch.zeros(11), torch.arange(4))
    with pytest.raises(ValueError, match="pass what differs between rows as `weights`"):
        (losses * torch.tensor([1.0, 1.0, 2.0, 1.0])).sum().backward()


def test_the_gradient_of_rows_without_weight_does_not_matter() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    losses = kernels.linear_cross_entropy(
        hidden, weight, torch.zeros(11), torch.arange(4), weights=weights
    )
    (losses * weights).sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad[1].any()
    assert hidden.grad[0].any()


def test_no_chunk_is_larger_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_seen = []
    module = importlib.import_module("mmbert_kernels.cross_entropy.linear_cross_entropy")
    true_chunk = module.chunk_in_blocks

    def spy(chunk, weight, *arguments):
        rows_seen.append((len(chunk.hidden), len(weight)))
        return true_chunk(chunk, weight, *arguments)

    monkeypatch.setattr(module, "chunk_in_blocks", spy)
    kernels.linear_cross_entropy(
        torch.randn(25, 8), torch.randn(11, 8), torch.zeros(11), torch.zeros(25).long(), chunk=10
    )
    assert rows_seen == [(10, 11), (10, 11), (5, 11)]


@pytest.mark.parametrize("operation", ["layer_norm", "linear_cross_entropy"])
def test_the_cpu_runs_the_reference(operation: str) -> None:
    assert backend(operation, "cpu") == "reference"
    assert kernels.backends("cpu")[operation] == "reference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cpu_attends_in_blocks(dtype: torch.dtype) -> None:
    assert backend("attention", "cpu", dtype) == "blocked"
    assert kernels.backends("cpu")["attention"] == "blocked"


@pytest.mark.parametrize("name", layouts.NAMES)
def test_results_do_not_depend_on_memory_layout(name: str) -> None:
    layouts.check_layouts(name)


@pytest.mark.parametrize("name", layouts.NAMES)
def test_nothing_gives_nothing(name: str) -> None:
    layouts.check_nothing(name)


def test_linear_cross_entropy_in_blocks_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 words, the last of 5, with maxima that rise from block to block."""
    blocks = importlib.import_module("mmbert_kernels.cross_entropy.cpu_blocks")
    monkeypatch.setattr(blocks, "BLOCK_LOGITS", 1)
    hidden, weight = torch.randn(20, 16), torch.randn(197, 16)
    weight *= torch.linspace(0.1, 8, 197)[:, None]
    bias, labels = torch.randn(197), torch.randint(0, 197, (20,))
    labels[:3] = torch.tensor([0, 64, 196])
    compare(
        lambda h, w, b: kernels.linear_cross_entropy(h, w, b, labels, chunk=7),
        lambda h, w, b: formulas.linear_cross_entropy(h, w, b, labels, torch.ones(20)),
        (hidden, weight, bias),
        (torch.full((20,), 0.375),),
        roundings=96,
    )


def test_gradients_are_given_once() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    losses = kernels.linear_cross_entropy(hidden, weight, torch.zeros(11), torch.arange(4))
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gives its gradients once"):
        losses.sum().backward()


@pytest.mark.parametrize("left_layout", ["plain", "transposed", "rows apart"])
@pytest.mark.parametrize("right_layout", ["plain", "transposed"])
@pytest.mark.parametrize("shape", [(300, 200, 100), (100, 200, 300), (3, 5, 7)])
def test_product(shape: tuple[int, int, int], left_layout: str, right_layout: str) -> None:
    rows, inner, columns = shape
    left = torch.randn(rows, inner)
    if left_layout == "transposed":
        left = torch.randn(inner, rows).t()
    elif left_layout == "rows apart":
        left = torch.randn(rows, 2 * inner)[:, :inner]
    right = torch.randn(inner, columns)
    if right_layout == "transposed":
        right = torch.randn(columns, inner).t()
    computed = kernels.matmul(left, right)
    assert computed.is_contiguous()
    assert_close("product", computed, left.double() @ right.double(), roundings=32)


def test_freed_memory_is_kept() -> None:
    """In a process of its own, as it cannot be undone: a large tensor comes back where it was."""
    code = (
        "import torch, mmbert_kernels\n"
        "assert mmbert_kernels.keep_freed_memory()\n"
        "torch.ones(1 << 25)\n"
        "import resource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(40):\n"
        "    torch.ones(1 << 25)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    # 40 times 128 MiB of fresh pages would be 1,310,720 faults; it settles after two to four
    assert int(run.stdout) < 6 * 32_768
