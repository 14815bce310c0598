"""The engine over DeepSpeed: exact gradients, float32 sums and masters, skipped steps.

In the first step StableAdamW's bias-corrected beta1 is zero, so `exp_avg` after one step is the
reduced gradient.
"""

import contextlib
import io
import logging
import math
import warnings
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from mmbert.errors import UserError
from mmbert.training.engine import engine as engine_module
from mmbert.training.engine import gradient_reducer
from mmbert.training.engine.engine import Engine
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedBatch,
    PrescribedModel,
    gather_full,
    initial_weight,
    prescribed_engine,
    recipe,
    seeded,
    start,
)
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings

STAGES = (1, 2, 3)
Array = npt.NDArray[np.float32]


def gradient(name: str, microbatch: int) -> torch.Tensor:
    """Return the full gradient of a microbatch, by its index in the step."""
    shape = SPECS[name].full_shape
    return torch.randn(shape, generator=seeded(f"{name} microbatch {microbatch}"))


def run_microbatches(
    engine: Engine, count: int, loss_scale: float | torch.Tensor, *, last: bool = True
) -> None:
    """Run this data rank's part of `count` microbatches; `last`: no others follow in the step."""
    size = engine.grid.data.size
    for number in range(engine.grid.data.rank, count, size):
        engine.forward_backward(
            PrescribedBatch({name: gradient(name, number) for name in SPECS}),
            make_settings(),
            dropout_seed=None,
            loss_scale=loss_scale,
            last=last and number + size >= count,
        )


def as_numpy(values: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in values.items()}


def steps_of_any_size(rank: int, world_size: int, tensor: int) -> list[Any]:
    """Return gradients and reported norms of steps of 4, 12 and 8 microbatches, by ZeRO stage."""
    results = []
    for stage in STAGES:
        grid = start(rank, world_size, tensor)
        engine = prescribed_engine(grid, parallel__zero_stage=stage)
        gradients, norms = [], []
        for count in (4, 12, 8):
            engine.set_steps_taken(0)  # the next step's exp_avg is its gradient
            run_microbatches(engine, count, 1 / count)
            norms.append(float(engine.optimizer_step(make_settings(0.0, 0.0)).gradient_norm))
            gradients.append(as_numpy(gather_full(engine, "exp_avg")))
        engine.close()
        results.append((gradients, norms))
    return results


@pytest.mark.parametrize(("tensor", "data"), [(1, 1), (2, 2), (1, 4)])
def test_the_gradient_is_the_mean_over_all_microbatches(tensor: int, data: int) -> None:
    """For any number of ranks and of microbatches, which changes from step to step."""
    results = run_ranks(steps_of_any_size, tensor * data, tensor)[0]
    for stage, (gradients, norms) in zip(STAGES, results, strict=True):
        for count, measured, norm in zip((4, 12, 8), gradients, norms, strict=True):
            square = 0.0
            for name in SPECS:
                mean = sum(gradient(name, number).double() for number in range(count)) / count
                difference = np.linalg.norm(measured[name] - mean.numpy()) / mean.norm()
                assert difference < 1e-6, (stage, count, name, difference)
                square += float(mean.norm()) ** 2
            assert norm == pytest.approx(math.sqrt(square), rel=1e-6)


def scales_of_both_kinds(rank: int, world_size: int) -> bool:
    """Return whether a scale on the host and one on the device give bitwise equal gradients."""
    same = []
    for stage in STAGES:
        grid = start(rank, world_size, 1)
        gradients = []
        for scale in (1 / 7, 1 / torch.tensor(7.0, dtype=torch.float64)):
            engine = prescribed_engine(grid, parallel__zero_stage=stage)
            run_microbatches(engine, 6, scale)
            engine.optimizer_step(make_settings(0.0, 0.0))
            gradients.append(gather_full(engine, "exp_avg"))
            engine.close()
        of_number, of_tensor = gradients
        same += [torch.equal(of_number[name], of_tensor[name]) for name in SPECS]
    return all(same)


def test_a_scale_on_the_device_gives_the_same_bits() -> None:
    """With three ranks the factor of ZeRO 3's average is not a power of two."""
    assert run_ranks(scales_of_both_kinds, 3)[0]


def note_weights(name: str, seen: dict[str, Array], module: torch.nn.Module, *_: Any) -> None:
    """Record the weights of the forward pass."""
    for leaf, parameter in module.named_parameters():
        seen[f"{name}.{leaf}"] = parameter.detach().float().numpy().copy()


def bfloat16_details(rank: int, world_size: int) -> list[dict[str, Any]]:
    """Return initial masters and weights in bfloat16 by ZeRO stage, and a gradient that bfloat16
    cannot represent, summed from parts that it can."""
    results = []
    for stage in STAGES:
        grid = start(rank, world_size, 1)
        engine = prescribed_engine(grid, parallel__zero_stage=stage, precision="bfloat16")
        engine.sync_model_weights()
        masters = as_numpy(gather_full(engine))
        seen: dict[str, Array] = {}
        hooks = [
            holder.register_forward_hook(partial(note_weights, name, seen))
            for name, holder in engine.module.named_children()
        ]
        # 1, then eight times 2^-9 on each rank: a sum in bfloat16 would stay 1 at every addition.
        for micro in range(9):
            size = 1.0 if micro == 0 and rank == 0 else 2.0**-9
            gradients = {name: torch.full(spec.full_shape, size) for name, spec in SPECS.items()}
            engine.forward_backward(
                PrescribedBatch(gradients), make_settings(), dropout_seed=None, loss_scale=1.0
            )
        for hook in hooks:
            hook.remove()
        report = engine.optimizer_step(make_settings(0.0, 0.0))
        results.append(
            {
                "masters": masters,
                "weights": seen,
                "gradient": as_numpy(gather_full(engine, "exp_avg")),
                "norm": float(report.gradient_norm),
            }
        )
        engine.close()
    return results


def test_bfloat16_runs_keep_float32_masters_and_sums() -> None:
    elements = sum(math.prod(spec.full_shape) for spec in SPECS.values())
    exact = 1 + (9 + 8) * 2.0**-9
    for result in run_ranks(bfloat16_details, 2)[0]:
        for name in SPECS:
            weight = initial_weight(name)
            assert not torch.equal(weight, weight.bfloat16().float()), "the test needs such weights"
            assert np.array_equal(result["masters"][name], weight.numpy())
            assert np.array_equal(result["weights"][name], weight.bfloat16().float().numpy())
            assert (result["gradient"][name] == exact).all(), result["gradient"][name]
        assert result["norm"] == pytest.approx(exact * math.sqrt(elements), rel=1e-6)


def skip_a_step(rank: int, world_size: int) -> list[str]:
    """Train twice, once with an additional step whose loss is NaN; return the differences."""
    problems = []
    for precision in ("float32", "bfloat16"):
        for stage in STAGES:
            ends = []
            for disturbed in (False, True):
                grid = start(rank, world_size, world_size // 2)
                engine = prescribed_engine(grid, parallel__zero_stage=stage, precision=precision)
                run_microbatches(engine, 4, 0.25)
                engine.optimizer_step(make_settings(1e-2, 0.1))
                if disturbed:
                    run_microbatches(engine, 4, 0.25, last=False)
                    run_microbatches(engine, 4, math.nan if rank == 0 else 0.25)
                    report = engine.optimizer_step(make_settings(1e-2, 0.1))
                    if report.finite or math.isfinite(float(report.gradient_norm)):
                        problems.append(f"{precision} {stage}: taken for finite")
                    if engine.steps_taken != 1:
                        problems.append(f"{precision} {stage}: counted")
                run_microbatches(engine, 8, 0.125)
                if not engine.optimizer_step(make_settings(1e-2, 0.1)).finite:
                    problems.append(f"{precision} {stage}: the next step was skipped too")
                ends.append({s: gather_full(engine, s) for s in ("master", "exp_avg_sq")})
                engine.close()
            for state, tensors in ends[0].items():
                for name, tensor in tensors.items():
                    if not torch.equal(tensor, ends[1][state][name]):
                        problems.append(f"{precision} {stage}: {state} of {name} changed")
    return problems


def test_a_step_that_is_not_finite_changes_nothing_on_any_rank() -> None:
    """NaN on one of 2 × 2 ranks."""
    assert set(map(tuple, run_ranks(skip_a_step, 4).values())) == {()}


def clip_gradients(rank: int, world_size: int) -> list[Any]:
    results = []
    for stage in STAGES:
        for limit in (None, 0.5):
            grid = start(rank, world_size, world_size)
            engine = prescribed_engine(
                grid, parallel__zero_stage=stage, optimizer__gradient_clipping=limit
            )
            run_microbatches(engine, 4, 0.25)
            norm = float(engine.optimizer_step(make_settings(0.0, 0.0)).gradient_norm)
            tensors = gather_full(engine, "exp_avg").values()
            results.append((limit, norm, math.sqrt(sum(float((t**2).sum()) for t in tensors))))
            engine.close()
    return results


def test_gradients_are_clipped_only_if_the_recipe_says_so() -> None:
    for limit, norm, used in run_ranks(clip_gradients, 2)[0]:
        assert norm > 10, "the norm reported is that before clipping"
        assert used == pytest.approx(norm if limit is None else limit, rel=1e-4)


def adamw_steps(rank: int, world_size: int) -> list[dict[str, Array]]:
    results = []
    for stage in STAGES:
        grid = start(rank, world_size, 1)
        engine = prescribed_engine(grid, parallel__zero_stage=stage, optimizer__name="adamw")
        for step in range(5):
            run_microbatches(engine, 4, 0.25)
            engine.optimizer_step(make_settings(1e-2 * (step + 1) / 5, 0.1))
        results.append(as_numpy(gather_full(engine)))
        engine.close()
    return results


def test_adamw_decays_like_the_recipe_says() -> None:
    """The float64 formula: decay relative to the peak rate, none for norms and biases."""
    settings = recipe().optimizer
    (beta1, beta2), results = settings.betas, run_ranks(adamw_steps, 2)[0]
    for name, spec in SPECS.items():
        weight = initial_weight(name).double()
        grad = sum(gradient(name, number).double() for number in range(4)) / 4
        mean = square = torch.zeros_like(weight)
        for step in range(1, 6):
            rate = 1e-2 * step / 5
            mean = beta1 * mean + (1 - beta1) * grad
            square = beta2 * square + (1 - beta2) * grad**2
            if len(spec.full_shape) > 1:
                weight = weight * (1 - rate / settings.learning_rate * 0.1)
            corrected = (square / (1 - beta2**step)).sqrt() + settings.eps
            weight = weight - rate * mean / (1 - beta1**step) / corrected
        for result in results:
            assert np.linalg.norm(result[name] - weight.numpy()) / weight.norm() < 1e-6


def start_quietly(rank: int, world_size: int) -> list[str]:
    """Start an engine without a compiler; return all of its output."""
    import torch.utils.cpp_extension as cpp_extension

    def no_compiler(*_: Any, **__: Any) -> None:
        raise AssertionError("something was compiled")

    cpp_extension.load = cpp_extension.load_inline = no_compiler
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("DeepSpeed").addHandler(handler)
    output = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(output):
        engine = prescribed_engine(start(rank, world_size, 1), precision="bfloat16")
        run_microbatches(engine, 2, 1.0)
        engine.optimizer_step(make_settings(1e-2, 0.1))
    return [*records, *(str(warning.message) for warning in caught), *output.getvalue().split()]


def test_it_starts_without_a_compiler_and_without_noise() -> None:
    assert run_ranks(start_quietly, 2) == {0: [], 1: []}


def refused(rank: int, world_size: int) -> list[str]:
    """Return the errors of unsupported recipes."""
    messages = []
    grid = start(rank, world_size, world_size)
    model = PrescribedModel(grid.tensor)
    without_zero = recipe(parallel__tensor=world_size)
    without_zero = without_zero.model_copy(
        update={"parallel": without_zero.parallel.model_copy(update={"zero_stage": 0})}
    )
    for settings in (without_zero, recipe(parallel__tensor=1)):
        try:
            Engine(model, settings, grid, torch.device("cpu"))
        except UserError as error:
            messages.append(str(error))
    torch.distributed.barrier()  # rank 0 keeps the store that the others still connect through
    return messages


def test_what_would_train_wrongly_is_refused_by_name() -> None:
    messages = run_ranks(refused, 2)[0]
    assert "parallel.zero_stage=0 is not supported" in messages[0]
    assert "parallel.tensor=1 does not match the grid's tensor-parallel size 2" in messages[1]
    with pytest.raises(ValidationError, match="zero_stage"):
        recipe(parallel__zero_stage=0)


UNUSED = ("down.weight", "norm.weight")


def reduce_while_computing(rank: int, world_size: int, optimizer: str) -> list[dict[str, Any]]:
    """Train with three microbatches, the last of which does not use some parameters, with and
    without `last`. Return gradients and the buckets launched before the end of the step."""
    gradient_reducer.dist = CountedReductions
    engine_module.OVERLAP_BUCKET = 100
    results = []
    for said in (False, True):
        grid = start(rank, world_size, 2)
        engine = prescribed_engine(grid, precision="bfloat16", optimizer__name=optimizer)
        for step in range(2):
            CountedReductions.sent = 0
            for micro in range(3):
                number = 10 * step + 3 * grid.data.rank + micro
                left_out = UNUSED if micro == 2 else ()
                batch = {n: gradient(n, number) for n in SPECS if n not in left_out}
                engine.forward_backward(
                    PrescribedBatch(batch),
                    make_settings(),
                    dropout_seed=None,
                    loss_scale=1.0,
                    last=said and micro == 2,
                )
            sent = CountedReductions.sent
            norm = float(engine.optimizer_step(make_settings(1e-2, 0.1)).gradient_norm)
        states = as_numpy(gather_full(engine, "exp_avg"))
        results.append(
            {"sent": sent, "in all": CountedReductions.sent, "norm": norm, "states": states}
        )
        engine.close()
    return results


class CountedReductions:
    """torch.distributed with a counter of all-reduces."""

    sent = 0

    @staticmethod
    def all_reduce(*arguments: Any, **options: Any) -> Any:
        CountedReductions.sent += 1
        return torch.distributed.all_reduce(*arguments, **options)


@pytest.mark.parametrize("optimizer", ["stable_adamw", "adamw"])
def test_the_last_microbatchs_gradients_are_reduced_while_it_runs(optimizer: str) -> None:
    silent, said = run_ranks(reduce_while_computing, 4, optimizer)[0]
    assert silent["sent"] == 0
    assert silent["in all"] == said["in all"] >= 4
    # The buckets of the parameters left out, and those that set out after them, wait for the end.
    assert 0 < said["sent"] < said["in all"]
    assert said["norm"] == silent["norm"]
    for name, array in said["states"].items():
        assert np.array_equal(array, silent["states"][name]), name


def a_microbatch_too_many(rank: int, world_size: int) -> str:
    engine = prescribed_engine(start(rank, world_size, 1), precision="bfloat16")
    run_microbatches(engine, 1, 1.0)
    try:
        run_microbatches(engine, 1, 1.0)
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_microbatch_after_the_last_is_refused() -> None:
    assert "marked as the last" in run_ranks(a_microbatch_too_many, 1)[0]
