"""The benchmark of the host's time to issue a microbatch, run through once for the small preset."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import bench_host
from tests.benchmarks.bench_host import HostCost, Result
from tests.benchmarks.test_gpu_benchmarks import run_module


def test_the_host_benchmark_runs(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    out = tmp_path / "host.json"
    arguments = ("--models", "small", "--tokens", "2048", "--repetitions", "3", "--json", str(out))
    run = run_module("bench_host", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4.3 TB/s (copy), 790 TFLOP/s (product)" in run.stdout
    (result,) = json.loads(out.read_text())["results"]
    issued = result["issued"]
    # 22 layers, of each: two norms, the gated unit and rotation, forward and backward; and four
    # linear maps, of one product forward and two backward
    assert issued["launches"] >= 22 * 2 * 4
    assert issued["operators"] >= 22 * 4 * 3
    assert min(issued["forward_milliseconds"], issued["backward_milliseconds"]) > 1
    assert result["device_milliseconds"] == pytest.approx(39.4 * 2048 / 49_152, rel=0.1)
    assert result["fewest_tokens"] > 2048, "no host asks for 22 layers in a millisecond or two"


def test_what_is_printed_follows_from_what_is_measured() -> None:
    result = Result("base", 1000, HostCost(3.0, 5.0, 100, 300), 2.0, 40.0)
    assert result.host_milliseconds == 10.0
    assert result.times_as_long == 4.0
    assert result.fewest_tokens == 250.0
    assert result.microseconds_each == 100.0


def test_without_triton_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_host, "triton_is_installed", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench_host"])
    assert bench_host.main() == 0
    assert "Triton is not installed" in capsys.readouterr().out
