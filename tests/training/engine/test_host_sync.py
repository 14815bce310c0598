"""A training step synchronizes with the device once, after the last microbatch.

On a GPU PyTorch detects synchronizations (test_on_gpu.py). Here a training step runs on a CPU under
ZeRO 1-3 while they are counted, and the model's GPU path runs on meta tensors, where any read of
the device fails.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmbert.data.loading.device_inputs import prefetch_to_device
from mmbert.model.config import Recompute
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.schedule import StepSettings
from mmbert.training.engine.engine import Engine, OptimizerReport
from mmbert.training.engine.step_scalars import StepScalars
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.train_step import StepRunner
from tests.support.fake_gpu import fake_gpu, on_meta_device
from tests.support.host_waits import CPU_IMPLEMENTATIONS, HostSyncCounter
from tests.support.packed_rows import packed_rows
from tests.support.prescribed_gradients import recipe, start
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings
from tests.support.tiny_models import BASES, tiny_config, tiny_model

ROWS = packed_rows(3, tokens=512, context=128, mask_ratio=0.3, vocabulary=131)
RUNS = [
    *(
        (precision, stage, clipping, "stable_adamw")
        for precision in ("float32", "bfloat16")
        for stage in (1, 2, 3)
        for clipping in (None, 0.5)
    ),
    ("bfloat16", 1, None, "normuon"),
    ("float32", 3, None, "normuon"),
]
# ZeRO 3 compares the ranks' order of modules in its first passes, and the throughput timer waits
# from the third on.
STEPS = {1: 2, 2: 2, 3: 4}
STEPS_WITH_TIMER = 4


def take_steps(rank: int, world_size: int, disturbed: bool) -> dict[str, list[Any]]:
    """Return the synchronizations in and after the microbatches of each run's last step, and the
    counts of requests (the last rank requests a stop)."""
    results: dict[str, list[Any]] = {}
    requests = LoopRequests(stop="enough" if rank == world_size - 1 else None)
    for precision, stage, clipping, optimizer in RUNS[:2] if disturbed else RUNS:
        settings = recipe(
            parallel__zero_stage=stage,
            precision=precision,
            optimizer__gradient_clipping=clipping,
            optimizer__name=optimizer,
        )
        grid = start(rank, world_size, 1)
        engine = Engine(tiny_model(tiny_config()), settings, grid, torch.device("cpu"))
        if disturbed:
            engine._engine.tput_timer.config.enabled = True
            engine.module.register_forward_hook(
                lambda module, args, out: out * float(out.detach().sum() > 0)
            )
        runner = StepRunner(
            engine,
            dropout_seed=3,
            meter=LossMeter(1, engine.device),
            step_timer=StepTimer(engine.device),
        )
        step = engine.optimizer_step
        steps = STEPS_WITH_TIMER if disturbed else STEPS[stage]
        for number in range(steps):
            waits = HostSyncCounter(ignore=(CPU_IMPLEMENTATIONS,))
            with waits if number == steps - 1 else nullcontext():
                counts = []

                def counted(*arguments: Any, **options: Any) -> Any:
                    counts.append(len(waits.found))  # noqa: B023
                    return step(*arguments, **options)  # noqa: B023

                engine.optimizer_step = counted  # type: ignore[method-assign]
                outcome = runner.run(
                    ROWS[rank::world_size],
                    make_settings(1e-3, 0.1, rotary_bases=BASES, dropout=0.1),
                    pending_requests=lambda: requests,
                )
        at_end = counts[0]
        key = f"{precision}, ZeRO {stage}, clipping {clipping}, {optimizer}"
        results[key] = [waits.found[:at_end], waits.found[at_end:], outcome.request_counts]
        engine.close()
    return results


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_host_waits_once_a_step(ranks: int) -> None:
    found = run_ranks(take_steps, ranks, False)[0]
    assert len(found) == len(RUNS)
    for key, (in_microbatches, after, request_counts) in found.items():
        assert in_microbatches == [], key
        assert len(after) == 1, (key, after)
        assert "host_sync.py" in after[0], (key, after)
        assert request_counts == (1, 0, 0), key


def test_a_wait_in_a_microbatch_is_found() -> None:
    """A synchronization in the model, and that of DeepSpeed's throughput timer, on by default."""
    for in_microbatches, after, _ in run_ranks(take_steps, 1, True)[0].values():
        reads = [what for what in in_microbatches if "_local_scalar_dense" in what]
        stops = [what for what in in_microbatches if "synchronize" in what and "timer.py" in what]
        assert len(reads) == len(stops) == len(ROWS)
        assert len(in_microbatches) == len(reads) + len(stops)
        assert sum("timer.py" in what for what in after) == 1


@pytest.fixture
def launched() -> Iterator[list[str]]:
    """Take the GPU's path; record Triton launches by kernel instead of making them."""
    pytest.importorskip("triton")
    names: list[str] = []
    with fake_gpu(lambda kernel, *_, **__: names.append(kernel.__name__)):
        yield names


def pretended_pass(*, recompute: Recompute, reads: bool = False) -> None:
    """Run a row through the model's GPU path, forward and backward, on meta tensors."""
    model, batch = on_meta_device(tiny_config(recompute=recompute, hidden_size=256), ROWS[0])
    meter = LossMeter(1, torch.device("meta"))
    with HostSyncCounter() as waits:
        losses = model(batch, rotary_bases=BASES, dropout_seed=3)
        if reads:
            losses = losses * float(losses.detach().sum())
        (losses.sum() * 0.25).backward()
        meter.add(losses, batch.weights, batch.labels)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert waits.found == []


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_the_gpu_path_reads_nothing_from_the_device(
    launched: list[str], recompute: Recompute
) -> None:
    pretended_pass(recompute=recompute)
    assert {"_backward_kernel", "_rotate_kernel", "_statistics_kernel"} <= set(launched)


def test_a_read_on_the_gpu_path_is_found(launched: list[str]) -> None:
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        pretended_pass(recompute="none", reads=True)


class Streams:
    """Replacement of torch.cuda's streams and events that records their use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: list[str] = []
        self.current = "computing"
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "copying")
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "Event", lambda: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda tensor, stream: self.notes.append("kept")
        )

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        self.current = stream
        yield
        self.current = "computing"

    def record(self, stream: str) -> None:
        self.notes.append(f"sent on {self.current}")
        assert stream == self.current

    def wait_event(self, event: "Streams") -> None:
        self.notes.append(f"waited for on {self.current}")


def test_rows_are_copied_ahead_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, device = Streams(monkeypatch), torch.device("cuda", 0)
    with FakeTensorMode(allow_non_fake_inputs=True), HostSyncCounter() as waits:
        for number, present in enumerate(prefetch_to_device(device, ROWS)):
            streams.notes.append("used")
            tensors = [v for v in vars(present.batch).values() if isinstance(v, torch.Tensor)]
            assert {tensor.device for tensor in (*tensors, present.components)} == {device}
            assert present.batch.row_index == ROWS[number].index
    assert waits.found == []
    one = ["waited for on computing", *["kept"] * 6, "used"]
    sent = "sent on copying"
    assert streams.notes == [sent, sent, *one, sent, *one, *one]
    assert list(prefetch_to_device(device, [])) == []


class PretendedEngine:
    """An engine on a fake GPU; its step returns scalars without reading the device."""

    device, grid, module = torch.device("cuda", 0), ProcessGrid.single(), torch.nn.Identity()

    def forward_backward(
        self, batch: PackedBatch, settings: StepSettings, *, loss_scale: Any, **_: Any
    ) -> torch.Tensor:
        assert (loss_scale.device, loss_scale.shape) == (self.device, ())
        return batch.weights * loss_scale

    def optimizer_step(
        self, settings: StepSettings, step_scalars: torch.Tensor, *, apply_update: bool
    ) -> OptimizerReport:
        assert apply_update
        assert (step_scalars.device, step_scalars.dtype) == (self.device, torch.float64)
        scalars = StepScalars(loss=6.0, masked_tokens=2.0, stop=0.0, save=1.0, failure=0.0)
        assert len(step_scalars) == len(scalars)
        return OptimizerReport(1.0, finite=True, metrics={}, step_scalars=scalars)


def test_what_a_step_adds_to_its_passes_reads_nothing_from_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Streams(monkeypatch)
    engine: Any = PretendedEngine()
    with FakeTensorMode(allow_non_fake_inputs=True), HostSyncCounter() as waits:
        step_timer, meter = StepTimer(torch.device("cpu")), LossMeter(1, engine.device)
        monkeypatch.setattr(meter, "add", lambda *_: None)  # pretended_pass has it
        runner = StepRunner(engine, dropout_seed=3, meter=meter, step_timer=step_timer)
        runner._forward_end = step_timer.mark()
        outcome = runner.run(
            ROWS,
            make_settings(1e-3, 0.1, rotary_bases=BASES, dropout=0.1),
            pending_requests=lambda: LoopRequests(save=True),
        )
    assert waits.found == []
    assert (outcome.loss, outcome.request_counts) == (3.0, (0.0, 1.0, 0.0))


def test_the_waits_are_all_known() -> None:
    """Every kind of synchronization is found, and nothing else."""
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    waiting = [
        lambda: x.sum().item(),
        lambda: bool(x.sum() > 0),
        lambda: float(x[0]),
        lambda: x.tolist(),
        lambda: x.numpy(),
        lambda: x[mask],
        lambda: x.nonzero(),
        lambda: x.unique(),
        lambda: torch.masked_select(x, mask),
        lambda: torch.equal(x, x),
        lambda: torch.repeat_interleave(x, torch.tensor([1, 2, 1, 1])),
    ]
    for call in waiting:
        with HostSyncCounter() as waits:
            call()
        assert waits.found, inspect.getsource(call)
    with HostSyncCounter() as waits:
        (x * 2).sum().clamp(min=1).masked_fill(mask, 0.0)
        torch.where(mask, x, 0.0)
        x[torch.tensor([2, 0])]
        torch.repeat_interleave(x, torch.tensor([1, 2, 1, 1]), output_size=5)
    assert waits.found == []
    with FakeTensorMode(), HostSyncCounter() as waits:
        gpu = torch.device("cuda", 0)
        torch.ones(3).to(gpu, non_blocking=True)
        assert waits.found == []
        torch.ones(3).to(gpu)
        torch.ones(3, device=gpu).to("cpu", non_blocking=True)
    assert len(waits.found) == 2
