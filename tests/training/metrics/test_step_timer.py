"""Timers of regions and collectives, and the FLOPs behind MFU."""

import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as distributed
from torch._C._distributed_c10d import ProcessGroup

from mmbert.hardware import peak_flops
from mmbert.model.flops import training_flops
from mmbert.recipe import ModelSettings
from mmbert.training.metrics.communication_timer import COLLECTIVES, CollectiveTimer
from mmbert.training.metrics.loggers.console_logger import format_count, format_seconds
from mmbert.training.metrics.step_timer import StepTimer
from tests.support.ranks import run_ranks


def test_seconds_add_up_by_activity_and_start_anew() -> None:
    split = StepTimer(torch.device("cpu"))
    for _ in range(2):
        with split.host("data"):
            time.sleep(0.02)
    with split.device("forward"):
        time.sleep(0.01)
    seconds = split.collect()
    assert seconds["data"] >= 0.04
    assert 0.01 <= seconds["forward"] < seconds["data"]
    assert split.collect() == {}


def communicate(rank: int, world_size: int) -> list[dict[str, float]]:
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    split, x, out = StepTimer(torch.device("cpu")), torch.ones(8), torch.empty(4)
    clock = CollectiveTimer(split)
    distributed.barrier()
    split.collect()
    answers = []
    for asynchronous in (False, True):
        if rank == 1:
            time.sleep(0.3)
        work = distributed.all_reduce(x, async_op=asynchronous)
        if asynchronous:
            work.wait()
        answers.append(split.collect())
    distributed.reduce_scatter_tensor(out, x)
    answers.append(split.collect())
    clock.close()
    distributed.all_reduce(x)
    answers.append(split.collect())
    return answers


def test_communication_is_timed_whoever_asks_and_however() -> None:
    waited: dict[int, Any] = run_ranks(communicate, 2)
    for number in (0, 1):  # rank 0 waits for rank 1
        assert waited[0][number]["communication"] > 0.2
        assert waited[1][number]["communication"] < 0.2
    assert waited[0][2]["communication"] > 0
    assert waited[0][3] == waited[1][3] == {}


def test_every_collective_is_known_by_its_name() -> None:
    """Every method of a process group that looks like a collective is wrapped, in any torch."""
    words = ("reduce", "gather", "scatter", "broadcast", "to_all", "alltoall", "barrier")
    found = {n for n in ProcessGroup.__dict__ if any(word in n for word in words)}
    assert found - set(COLLECTIVES) <= {"monitored_barrier"}


def test_on_a_gpu_what_runs_beside_computing_is_told_apart(monkeypatch: Any) -> None:
    current = ["computing"]
    monkeypatch.setattr(torch.cuda, "default_stream", lambda: "computing")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[0])
    split = StepTimer(torch.device("cuda"))
    assert not split.on_side_stream()
    current[0] = "reducing"
    assert split.on_side_stream()
    assert not StepTimer(torch.device("cpu")).on_side_stream()


def test_nothing_of_a_pause_is_timed() -> None:
    split = StepTimer(torch.device("cpu"))
    with split.host("data"):
        time.sleep(0.01)
    with split.paused(), split.device("communication"):
        time.sleep(0.01)
    with split.host("data"):
        time.sleep(0.01)
    seconds = split.collect()
    assert set(seconds) == {"data"}
    assert seconds["data"] >= 0.02


def test_flops_of_a_row_by_hand() -> None:
    model = ModelSettings(
        hidden_size=4, intermediate_size=6, num_hidden_layers=4, num_attention_heads=2,
        local_window=8, global_attention_every=3,
    )  # fmt: skip
    # Layers 0 and 3 are global, 1 and 2 local with at most 9 keys.
    lengths = np.array([20, 5])
    layers = 6 * 25 * 4 * (4 * 4 * 4 + 3 * 4 * 6)
    keys = 20 * (20 + 9 + 9 + 20) + 5 * (5 * 4)
    head = 6 * 7 * (4 * 4 + 4 * 50)
    assert training_flops(model, 50, lengths, 7) == layers + 12 * 4 * keys + head


def test_peaks_are_found_by_the_devices_own_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA B200") == 2250e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA GeForce RTX 4090") == 165e12
    assert peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert peak_flops("Something else") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (125, "2m 5s"), (7300, "2h 1m"), (40 * 86400 + 7200, "40d 2h")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_counts_read_well() -> None:
    assert [format_count(n) for n in (12, 983_040, 2.3e12)] == ["12", "983k", "2.3T"]
