"""DeepSpeed behind a small door: ZeRO 1, 2 and 3 over the grid. Nothing else imports deepspeed.

What is settled here and nowhere else:
- The caller owns the accumulation boundary: every microbatch adds to the gradients, and
  `optimizer_step` ends the step, whatever the number of microbatches, which changes as the batch
  grows.
- The gradient is the sum over ranks and microbatches of loss_scale · (sum of per-token losses).
  With loss_scale = 1 / (masked tokens of the global batch) it is that of the mean over those.
- bfloat16 runs keep float32 masters that start unrounded, accumulate and reduce in float32.
- Matrix products of half precision add up in float32, too.
- Nothing is clipped unless the recipe says so, and nothing is compiled when the engine starts.
"""

import contextlib
import gc
import io
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.model.packed_batch import PackedBatch
from mmbert.model.precision import add_products_in_float32
from mmbert.parallel.gradient_hooks import attach_main_grad
from mmbert.parallel.parameter_spec import ParameterSpec, spec_of
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_fragment import ParameterFragment
from mmbert.recipe import Recipe, RotaryBases
from mmbert.training.engine.deepspeed_config import (
    ModelParallelUnit,
    build_client_optimizer,
    check_supported,
    deepspeed_settings,
)
from mmbert.training.engine.gradient_reducer import OverlappedGradReducer
from mmbert.training.engine.host_sync import HostSync
from mmbert.training.engine.stable_adamw import PartitionLayout, StableAdamW, skips_weight_decay
from mmbert_kernels import TensorSpans

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else every process warns that it found none

import deepspeed
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.zero import stage3, stage_1_and_2
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

deepspeed_logger = logging.getLogger("DeepSpeed")
deepspeed_logger.setLevel(logging.WARNING)
# A client optimizer is what this program wants, though DeepSpeed calls every one of them untested;
# and a step passed over is in the report of `optimizer_step`.
NOISE = re.compile("untested optimizer|OVERFLOW! Skipping step")
deepspeed_logger.addFilter(lambda record: NOISE.search(record.getMessage()) is None)
# torch 2.13 on DeepSpeed's collectives, once per process and line.
warnings.filterwarnings(
    "ignore", r".*(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated", FutureWarning
)

# An op for inference that DeepSpeed would compile with g++ whenever it starts on a CPU.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

# Elements of a bucket of the reduction that overlaps the last backward pass (50 MB): small, so that
# the first sets out early.
OVERLAP_BUCKET = 12_500_000


@dataclass(frozen=True)
class OptimizerReport:
    """What a step did."""

    gradient_norm: float
    """L2 norm over all parameters before clipping; inf when not finite."""
    update_rms_clipped_share: Tensor
    """float32 scalar: share of tensors whose StableAdamW update was clipped (0 with AdamW). It
    stays on the device: reading it waits."""
    finite: bool
    """False: a gradient was not finite, and the step changed nothing, on all ranks alike."""
    step_scalars: list[float]
    """What was to be read with the norm."""


class Engine:
    """A model in training: forward and backward passes, the optimiser's step, its sharded state.

    `model` (float32, freshly initialised or not, with the same full weights on every rank) is taken
    over; torch.distributed must be initialised and `grid` span all its ranks. UserError for what
    does not work together.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, grid: ProcessGrid, device: torch.device
    ) -> None:
        check_supported(model, recipe, grid)
        add_products_in_float32()
        self.grid, self.device = grid, device
        self.zero_stage = recipe.parallel.zero_stage
        self._learning_rate_max = recipe.optimizer.learning_rate
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        # ZeRO clones its masters from weights already rounded to bfloat16: keep the true ones.
        unrounded = {
            name: parameter.detach().to("cpu", torch.float32, copy=True).flatten()
            for name, parameter in model.named_parameters()
            if recipe.precision == "bfloat16"
        }
        self._client_optimizer = build_client_optimizer(model, recipe, device)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its memory usage
            self._engine, _, _, _ = deepspeed.initialize(
                model=model,
                optimizer=self._client_optimizer,
                config=deepspeed_settings(model, recipe),
                mpu=ModelParallelUnit(grid),
                dist_init_required=False,
            )
        self._zero_optimizer = self._engine.optimizer
        self._host_sync = HostSync(bf16_optimizer, stage_1_and_2, stage3)
        if isinstance(self._zero_optimizer, stage_1_and_2.DeepSpeedZeroOptimizer):
            # It would look at every gradient first, and wait; their norm says the same.
            self._zero_optimizer.check_overflow = lambda **_: None
        if isinstance(self._zero_optimizer, BF16_Optimizer):
            self._attach_main_grads()
        self._grad_reducer = self._make_grad_reducer()
        self._accumulation_done = False
        self._parameters = list(model.named_parameters())
        self._prepare_states()
        if unrounded:
            for fragment in self.fragments():
                source = unrounded[fragment.name][fragment.start : fragment.start + fragment.length]
                fragment.master.copy_(source)

    @property
    def module(self) -> nn.Module:
        """The model itself, for evaluation; under ZeRO 3 its parameters are gathered as it runs."""
        module: nn.Module = self._engine.module
        return module

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """Every parameter of the model, in its order, held by this rank or not."""
        return tuple(spec_of(parameter) for _, parameter in self._parameters)

    @property
    def steps_taken(self) -> int:
        """Optimiser steps so far, those of earlier runs included; skipped ones are not counted."""
        if isinstance(self._client_optimizer, StableAdamW):
            return self._client_optimizer.steps
        return max(int(state["step"]) for state in self._client_optimizer.state.values())

    def set_steps_taken(self, steps: int) -> None:
        """Continue counting from `steps` (the bias correction depends on it)."""
        if isinstance(self._client_optimizer, StableAdamW):
            self._client_optimizer.steps = steps
            return
        for state in self._client_optimizer.state.values():
            state["step"].fill_(steps)

    def forward_backward(
        self,
        batch: PackedBatch,
        *,
        rotary_bases: RotaryBases,
        dropout_seed: int | None,
        dropout: float | None = None,
        loss_scale: float | Tensor,
        last: bool = False,
    ) -> Tensor:
        """Add one microbatch's gradient of loss_scale · sum(losses); never waits for the device.

        `loss_scale` is rounded to float32 when it is used; a tensor of it has no dimensions.
        `last` says that no other microbatch follows in this step on any rank: gradients may then
        be reduced while they are still being computed. `dropout`: the model's unless given. Returns
        the detached per-token losses, float32 [K], 0 where the weight is 0.
        """
        if self._accumulation_done:
            raise RuntimeError("a microbatch after the last one of its step")
        losses: Tensor = self._engine(
            batch, rotary_bases=rotary_bases, dropout_seed=dropout_seed, dropout=dropout
        )
        # ZeRO 3 can only average over the data ranks; the others are told to sum.
        average = self.grid.data.size if self.zero_stage == 3 else 1
        scale = loss_scale * average
        if isinstance(scale, Tensor):
            scale = scale.to(losses.dtype)  # as torch does with a number
        self._accumulation_done = last
        if last and self._grad_reducer is not None:
            self._grad_reducer.start_backward()
        self._engine.backward(losses.sum() * scale, scale_wrt_gas=False)
        return losses.detach()

    def optimizer_step(
        self, learning_rate: float, weight_decay: float, step_scalars: Tensor | None = None
    ) -> OptimizerReport:
        """End the step: reduce, clip if the recipe says so, update, clear the gradients.

        The host waits for the device once, to learn whether the gradients are finite;
        `step_scalars` (float64 [n], on the device) are read at the same time.
        """
        for group in self._client_optimizer.param_groups:
            group["lr"] = learning_rate
            if isinstance(self._client_optimizer, StableAdamW):
                group["weight_decay"] = weight_decay
            elif group["decays"]:
                # torch multiplies by the rate; in the recipe decay is relative to the peak rate.
                group["weight_decay"] = weight_decay / self._learning_rate_max
        if self._grad_reducer is not None:
            self._grad_reducer.finish()
        if step_scalars is None:
            step_scalars = torch.zeros(0, dtype=torch.float64, device=self.device)
        with self._host_sync.patched_norm_check(step_scalars):
            self._engine.step()
        self._accumulation_done = False
        finite = not self._zero_optimizer.overflow
        share = torch.zeros((), device=self.device)
        if finite and isinstance(self._client_optimizer, StableAdamW):
            share = self._client_optimizer.clipped_fraction
        return OptimizerReport(self._host_sync.norm, share, finite, self._host_sync.step_scalars)

    def fragments(self) -> Iterator[ParameterFragment]:
        """What this rank holds of each parameter, in the model's order; nothing of some."""
        for name, parameter in self._parameters:
            for flat, offset, start, length in self._fragment_address(parameter):
                states = self._client_optimizer.state[flat]
                piece = slice(offset, offset + length)
                spec = spec_of(parameter)
                assert spec.name == name
                yield ParameterFragment(
                    spec=spec,
                    tensor_rank=self.grid.tensor.rank,
                    tensor_size=self.grid.tensor.size,
                    start=start,
                    length=length,
                    master=flat.detach()[piece],
                    exp_avg=states["exp_avg"][piece],
                    exp_avg_sq=states["exp_avg_sq"][piece],
                )

    @torch.no_grad()
    def sync_model_weights(self) -> None:
        """Bring the model's weights into line with the masters; all ranks must call it."""
        if not isinstance(self._zero_optimizer, DeepSpeedZeroOptimizer_Stage3):
            self._zero_optimizer.update_lp_params()
            return
        self._zero_optimizer._partition_all_parameters()
        for sub_group in range(len(self._zero_optimizer.fp16_groups)):
            self._zero_optimizer._reassign_or_swap_out_partitioned_parameters(sub_group)
        if self._zero_optimizer.persistent_parameters:
            self._zero_optimizer.persistent_parameters[0].all_gather(
                self._zero_optimizer.persistent_parameters
            )

    def close(self) -> None:
        """Let go of the model and of DeepSpeed's state, after all ranks have come this far."""
        dist.barrier()
        if self._grad_reducer is not None:
            self._grad_reducer.close()
        self._engine.destroy()
        del (
            self._engine,
            self._zero_optimizer,
            self._client_optimizer,
            self._grad_reducer,
            self._parameters,
        )
        gc.collect()  # hooks and parameters refer to one another

    def _fragment_address(self, parameter: Any) -> Iterator[tuple[Tensor, int, int, int]]:
        """(flat partition, offset in it, start in the flattened parameter, length), or nothing."""
        if isinstance(self._zero_optimizer, DeepSpeedZeroOptimizer_Stage3):
            # Every parameter is cut evenly over the data ranks; the last parts are padded.
            group, offset, padded = self._zero_optimizer.grad_position[
                self._zero_optimizer.get_param_id(parameter)
            ]
            start = self.grid.data.rank * padded
            length = min(padded, parameter.ds_numel - start)
            if length > 0:
                yield (
                    self._zero_optimizer.fp32_partitioned_groups_flat[group],
                    offset,
                    start,
                    length,
                )
            return
        mapping = parameter._hp_mapping
        if mapping is not None:
            flats = (
                self._zero_optimizer.fp32_groups_flat_partition
                if isinstance(self._zero_optimizer, BF16_Optimizer)
                else self._zero_optimizer.single_partition_of_fp32_groups
            )
            here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
            assert here.numel == there.numel
            yield flats[mapping.param_group_index], here.start, there.start, here.numel

    def _flat_partitions(self) -> list[Tensor]:
        if isinstance(self._zero_optimizer, DeepSpeedZeroOptimizer_Stage3):
            return list(self._zero_optimizer.fp32_partitioned_groups_flat)
        if isinstance(self._zero_optimizer, BF16_Optimizer):
            return list(self._zero_optimizer.fp32_groups_flat_partition)
        return list(self._zero_optimizer.single_partition_of_fp32_groups)

    def _attach_main_grads(self) -> None:
        """Have bfloat16 gradients added to the float32 sums as they are, where DeepSpeed would make
        a float32 copy of each first, and float32 ones by those who have them."""
        sums = self._zero_optimizer.fp32_groups_gradients
        for parameters, totals in zip(self._zero_optimizer.bf16_groups, sums, strict=True):
            for parameter, total in zip(parameters, totals, strict=True):
                attach_main_grad(parameter, total.view(parameter.shape))

        def add(parameter: nn.Parameter, group: int, place: int, clear_lp_grads: bool) -> None:
            if parameter.grad is not None:
                sums[group][place].add_(parameter.grad.view(sums[group][place].shape))
                self._zero_optimizer.fp32_groups_has_gradients[group][place] = True

        self._zero_optimizer._update_hp_grad = add

    def _make_grad_reducer(self) -> OverlappedGradReducer | None:
        """Our own reduction in place of the one of DeepSpeed's bfloat16 optimiser (ZeRO 1), which
        begins when the last backward pass has ended. ZeRO 2 and 3 reduce during each of them."""
        if not isinstance(self._zero_optimizer, BF16_Optimizer):
            return None
        self._engine.enable_backward_allreduce = False
        flats, groups = (
            self._zero_optimizer.fp32_groups_gradients_flat,
            self._zero_optimizer.bf16_groups,
        )
        return OverlappedGradReducer(
            list(zip(flats, groups, strict=True)),
            self.grid.data,
            order=list(self.module.parameters()),
            bucket_elements=OVERLAP_BUCKET,
        )

    def _prepare_states(self) -> None:
        """Make the optimiser's states now, so that a checkpoint can be loaded before a step."""
        flats = self._flat_partitions()
        if isinstance(self._client_optimizer, StableAdamW):
            assert len(flats) == 1, f"one partition was asked for, ZeRO made {len(flats)}"
            self._client_optimizer.use_layout(flats[0], self._layout())
            return
        for flat in flats:
            self._client_optimizer.state[flat] = {
                "step": torch.zeros((), device=flat.device if flat.is_cuda else "cpu"),
                "exp_avg": torch.zeros_like(flat, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(flat, requires_grad=False),
            }

    def _layout(self) -> PartitionLayout:
        specs = self.specs
        first, no_decay = self.grid.tensor.rank == 0, []
        spans = sorted(
            (offset, offset + length, number)
            for number, (_, parameter) in enumerate(self._parameters)
            for _, offset, _, length in self._fragment_address(parameter)
        )
        numbers = [number for _, _, number in spans]
        for spec in specs:
            no_decay.append(skips_weight_decay(spec.name, len(spec.full_shape)))
        sizes = [math.prod(spec.full_shape) for spec in specs]
        owned = [spec.is_split or first for spec in specs]
        return PartitionLayout(
            spans=TensorSpans(tuple(s[0] for s in spans), tuple(s[1] for s in spans)),
            tensors=torch.tensor(numbers, dtype=torch.int64, device=self.device),
            decays=torch.tensor([not no_decay[n] for n in numbers]).to(self.device, torch.float32),
            full_sizes=torch.tensor(sizes, dtype=torch.float64, device=self.device),
            owned=torch.tensor(owned, dtype=torch.float64, device=self.device),
        )
