"""The benchmark of packed models: run through at tiny sizes, and what it compares and counts."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import mmbert
from mmbert.errors import ModelError, TextError
from tests.benchmarks import bench_gpu_pack, bench_pack
from tests.benchmarks.bench_pack import PACKED, UNPACKED, Race, Seconds, told
from tests.benchmarks.gpu_report.records import Recorder, figures
from tests.benchmarks.pack_pairs import generate_pairs, pair_batches, read_pairs
from tests.support.live_training import (
    EQUAL,
    KINDS_OF_LENGTHS,
    MASKED_LM,
    MIXED,
    PAIRS,
    TINY,
    Lane,
    Sizes,
    build,
    draw_lengths,
    kept_bytes,
    make_batch,
)

if find_spec("sentence_transformers") is None:  # not imported: that takes seconds
    pytest.skip("needs sentence-transformers", allow_module_level=True)
TRIAL = ("--tiny", "--rounds", "1", "--threads", "1", "--batch", "4", "--steps", "1")


def run(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run the program at tiny sizes; return what it prints. Its speed says nothing."""
    threads = torch.get_num_threads()
    try:
        assert bench_pack.main([*TRIAL, *more]) in (0, 1)
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "parts",
    [
        ("masked LM",),  # the one with another model beside the packed and unpacked ones
        pytest.param(("encoder", "classifier", "masked LM"), marks=pytest.mark.long),
    ],
    ids=len,
)
def test_every_model_has_its_figures(
    parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "--parts", *parts, "--lengths", "mixed")
    for part in parts:
        assert f"{part}, mixed: " in out
    assert out.count("unpacked / packed: cpu") == len(parts)
    assert out.count("unpacked, sparse_prediction / packed: cpu") == 1
    assert out.count("kept for backward: ") == len(parts) + 1
    assert f"torch {torch.__version__}" in out


@pytest.mark.long
def test_pairs_are_generated_or_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    lines = [{"anchor": f"a text {n}", "positive": f"another, longer text {n}"} for n in range(12)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = run(capsys, "--parts", "sentence-transformers", "--pairs", str(file))
    assert f"12 pairs, of {file}" in out
    for order in ("random", "grouped by length"):
        assert f"sentence-transformers, {order} batches of 4 pairs, 1 a round" in out
    assert "2,000 pairs, generated" in run(capsys, "--parts", "sentence-transformers")
    with file.open("a") as more:
        more.write('{"anchor": "alone"}\n')
    with pytest.raises(TextError, match="line 13: no pair"):
        read_pairs(file)


def test_lengths_are_the_studied_ones() -> None:
    sizes, generator = Sizes(texts=20_000), np.random.default_rng(21)
    means = {kind: np.mean(draw_lengths(kind, sizes, generator)) for kind in KINDS_OF_LENGTHS}
    assert means[EQUAL] == 128
    assert means[PAIRS] == pytest.approx(25, rel=0.02)
    assert means[MIXED] == pytest.approx(60, rel=0.03)
    assert max(draw_lengths(MIXED, sizes, generator)) == 512
    pairs = generate_pairs(2000, Sizes())
    lengths = np.array([[len(text.split()) + 2 for text in pair] for pair in pairs])
    assert lengths.mean() == pytest.approx(38.5, rel=0.03)
    assert np.corrcoef(np.log(lengths.T))[0, 1] == pytest.approx(0.65, abs=0.05)
    totals = lengths.sum(1).tolist()
    widths = []
    for grouped in (False, True):
        batches = pair_batches(pairs, totals, 64, grouped=grouped)
        assert len({pair for batch in batches for pair in batch}) >= 31 * 64 - 5
        longest = [max(len(text.split()) for pair in batch for text in pair) for batch in batches]
        widths.append(sum(longest))
    assert widths[1] < 0.75 * widths[0]


def test_a_ratio_is_that_of_a_round(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [Seconds(1.0, 2.0), Seconds(2.0, 2.0), Seconds(4.0, 2.0)]
    theirs = [Seconds(3.0, 2.0), Seconds(4.0, 2.0), Seconds(4.0, 6.0)]
    found = Race({PACKED: ours, UNPACKED: theirs}, 0.0)
    line, missed = told(found, UNPACKED, 2.5)
    assert "cpu 4.00 / 2.00 s, wall 2.00 / 2.00 s" in line
    assert "by CPU 2.00 (1.00-3.00), by wall 1.00 (1.00-3.00), wanted 2.5: MISSED" in line
    assert missed
    assert not told(found, UNPACKED, 2.0)[1]


def test_other_losses_are_an_error() -> None:
    generator = np.random.default_rng(21)
    batch = make_batch(MASKED_LM, MIXED, TINY, generator)
    lanes = [
        Lane(PACKED, mmbert.pack(build(MASKED_LM, TINY))),
        Lane(UNPACKED, build(MASKED_LM, TINY)),
    ]
    with torch.no_grad():
        lanes[1].model.decoder.bias[3] += 1.0
    with pytest.raises(RuntimeError, match="losses differ"):
        bench_pack.race(lanes, [[batch], [batch]])


def test_kept_bytes_are_those_between_the_passes() -> None:
    """By hand: a product keeps its input; a parameter or a view of the same memory adds nothing."""
    x = torch.randn(5, 7)

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:
            ctx.kept = value.new_empty(100)  # type: ignore[attr-defined]
            return value * 2

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 2

    model = torch.nn.Linear(7, 3, bias=False)
    lane = Lane("", model, lambda model, x: model(x).sum() + model(x[1:]).sum())
    assert kept_bytes(lane, x) == x.nbytes
    lane = Lane("", model, lambda model, x: Square.apply(model(x)).sum())
    assert kept_bytes(lane, x) == x.nbytes + 400


def test_what_is_wrong_on_a_gpu_is_said_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(*_: object, **options: object) -> None:
        if "validate" in options:
            raise ModelError("packed and unpacked differ in the loss", remedy="use it unpacked")

    monkeypatch.setattr(bench_gpu_pack.mmbert, "pack", wrong)
    place = torch.device("cpu")
    device = bench_gpu_pack.Device(place, None, 1.0, 1.0)
    bench = bench_gpu_pack.Bench(device, Recorder("pack", tmp_path), 1)
    setting = next(bench_gpu_pack.model_settings(TINY, place))
    assert not bench.measure(setting)
    (said,) = figures(tmp_path)
    assert said.value == "WRONG, not timed: packed and unpacked differ in the loss"
