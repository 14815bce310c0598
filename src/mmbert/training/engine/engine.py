"""Wrapper around the DeepSpeed engine for ZeRO 1-3. The only module that imports deepspeed.

Conventions that hold for every ZeRO stage:
- Every microbatch accumulates gradients until `optimizer_step` ends the step. The number of
  microbatches may change between steps (batch-size warm-up).
- The gradient is the sum over ranks and microbatches of loss_scale · (sum of per-token losses).
  With loss_scale = 1 / (masked tokens of the global batch), it is the gradient of the mean loss.
- bfloat16 runs have float32 master weights, initialized before rounding, and accumulate and reduce
  gradients in float32.
- Matrix products in half precision accumulate in float32.
- Gradients are clipped only if the recipe asks for it; nothing is compiled at startup.
"""

import contextlib
import gc
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.model.packed_batch import PackedBatch
from mmbert.model.precision import add_products_in_float32
from mmbert.parallel.parameter_spec import ParameterSpec, spec_of
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_fragment import MASTER, ParameterFragment, RowState
from mmbert.recipe import Recipe
from mmbert.schedule import StepSettings
from mmbert.training.engine.deepspeed_config import (
    ModelParallelUnit,
    check_supported,
    deepspeed_settings,
)
from mmbert.training.engine.gradient_reducer import OverlappedGradReducer
from mmbert.training.engine.host_sync import HostSync
from mmbert.training.engine.optimizers import build_optimizer
from mmbert.training.engine.partitions import PartitionLayout
from mmbert.training.engine.step_scalars import StepScalars
from mmbert.training.engine.zero_views import zero_view

if not torch.cuda.is_available():
    # Otherwise every process warns that it found none.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.zero import stage3, stage_1_and_2

deepspeed_logger = logging.getLogger("DeepSpeed")
deepspeed_logger.setLevel(logging.WARNING)
# DeepSpeed warns about every client optimizer, and about skipped steps, which `optimizer_step`
# reports.
NOISE = re.compile("untested optimizer|OVERFLOW! Skipping step")
deepspeed_logger.addFilter(lambda record: NOISE.search(record.getMessage()) is None)
# Raised by torch 2.13 for DeepSpeed's collectives, once per process and line.
warnings.filterwarnings(
    "ignore", r".*(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated", FutureWarning
)

# Inference op that DeepSpeed would compile with g++ at every start on a CPU.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

# Bucket size in elements (50 MB) of the reduction that overlaps the last backward pass; small, so
# that the first bucket is reduced early.
OVERLAP_BUCKET = 12_500_000
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class OptimizerReport:
    """Result of an optimizer step."""

    gradient_norm: float
    """L2 norm over all parameters before clipping; inf if a gradient is not finite."""
    finite: bool
    """Whether all gradients were finite on all ranks. Otherwise the step was skipped."""
    metrics: Mapping[str, Any]
    """Scalars of the optimizer to log, by name; empty without an update. Reading their tensors,
    which are on the device, synchronizes."""
    step_scalars: StepScalars
    """The step's scalars, read with the norm."""


class Engine:
    """Trains a model: forward and backward passes, optimizer steps, sharded state.

    Takes ownership of `model` (float32, the same weights on every data rank). torch.distributed
    must be initialized, and `grid` must span all its ranks.

    Raises:
        UserError, RuntimeError: see `check_supported`.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, grid: ProcessGrid, device: torch.device
    ) -> None:
        check_supported(model, recipe, grid)
        add_products_in_float32()
        self.grid, self.device = grid, device
        self.zero_stage = recipe.parallel.zero_stage
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        # ZeRO initializes its masters from weights rounded to bfloat16: keep the originals.
        unrounded = {
            name: parameter.detach().to("cpu", torch.float32, copy=True).flatten()
            for name, parameter in model.named_parameters()
            if recipe.precision == "bfloat16"
        }
        self._client_optimizer = build_optimizer(
            model, recipe.optimizer, device, DTYPES[recipe.precision]
        )
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints its memory usage
            self._engine, _, _, _ = deepspeed.initialize(
                model=model,
                optimizer=self._client_optimizer,
                config=deepspeed_settings(model, recipe),
                mpu=ModelParallelUnit(grid),
                dist_init_required=False,
            )
        self._host_sync = HostSync(bf16_optimizer, stage_1_and_2, stage3)
        self._zero_view = zero_view(self._engine.optimizer, grid)
        self._grad_reducer = self._make_grad_reducer()
        self._accumulation_done = False
        self._parameters = list(model.named_parameters())
        layouts = self._layouts(recipe.optimizer.rate_factors)
        self._client_optimizer.attach(self._zero_view.partitions(), layouts)
        if unrounded:
            for fragment in self.fragments():
                source = unrounded[fragment.name][fragment.start : fragment.start + fragment.length]
                fragment.master.copy_(source)

    @property
    def module(self) -> nn.Module:
        """The model, for evaluation. Under ZeRO 3, the forward pass gathers the parameters."""
        module: nn.Module = self._engine.module
        return module

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """Specs of all parameters, in the order of the model, including those on other ranks."""
        return tuple(spec_of(parameter) for _, parameter in self._parameters)

    @property
    def steps_taken(self) -> int:
        """Number of optimizer steps, including those of earlier runs but not skipped steps."""
        return self._client_optimizer.steps

    def set_steps_taken(self, steps: int) -> None:
        """Set the number of steps taken, on which the bias correction depends."""
        self._client_optimizer.steps = steps

    def forward_backward(
        self,
        batch: PackedBatch,
        settings: StepSettings,
        *,
        dropout_seed: int | None,
        loss_scale: float | Tensor,
        last: bool = False,
    ) -> Tensor:
        """Accumulate the gradient of loss_scale · sum(losses) of one microbatch.

        Does not synchronize with the device.

        Args:
            loss_scale: factor, rounded to float32; a tensor must be 0-dimensional.
            last: whether this is the step's last microbatch, the same on all ranks. Gradients are
                reduced during its backward pass.

        Returns:
            Detached per-token losses, float32 [K], 0 where the weight is 0.
        """
        if self._accumulation_done:
            raise RuntimeError("microbatch after the one marked as the last of its step")
        losses: Tensor = self._engine(
            batch, dropout_seed=dropout_seed, **settings.model_arguments()
        )
        # ZeRO 3 can only average over the data ranks; ZeRO 1 and 2 are configured to sum.
        average = self.grid.data.size if self.zero_stage == 3 else 1
        scale = loss_scale * average
        if isinstance(scale, Tensor):
            scale = scale.to(losses.dtype)  # as torch casts a Python number
        self._accumulation_done = last
        if last and self._grad_reducer is not None:
            self._grad_reducer.start_backward()
        self._engine.backward(losses.sum() * scale, scale_wrt_gas=False)
        return losses.detach()

    def optimizer_step(
        self,
        settings: StepSettings,
        step_scalars: Tensor | None = None,
        *,
        apply_update: bool = True,
    ) -> OptimizerReport:
        """Reduce gradients, clip them if the recipe requires it, update weights, clear gradients.

        Synchronizes with the device once, to check whether the gradients are finite.

        Args:
            step_scalars: result of `StepScalars.to_tensor`, read in the same synchronization
                (default: zeros).
            apply_update: False drops the update, as after non-finite gradients: weights and
                optimizer states keep every bit.
        """
        self._client_optimizer.set_step(settings)
        if self._grad_reducer is not None:
            self._grad_reducer.finish()
        if step_scalars is None:
            step_scalars = torch.zeros(
                len(StepScalars._fields), dtype=torch.float64, device=self.device
            )
        with self._host_sync.patched_norm_check(step_scalars, drop=not apply_update):
            self._engine.step()
        self._accumulation_done = False
        updated = not self._engine.optimizer.overflow
        return OptimizerReport(
            gradient_norm=self._host_sync.norm,
            finite=self._host_sync.finite,
            metrics=self._client_optimizer.metrics() if updated else {},
            step_scalars=StepScalars.from_list(self._host_sync.values),
        )

    def fragments(self) -> Iterator[ParameterFragment]:
        """Yield this rank's parameter fragments, in the order of the model."""
        partitions = self._zero_view.partitions()
        for name, parameter in self._parameters:
            address = self._zero_view.address(parameter)
            if address is None:
                continue
            spec = spec_of(parameter)
            assert spec.name == name
            partition = partitions[address.partition]
            own = slice(address.offset, address.offset + address.length)
            states = self._client_optimizer.states_of(partition, own)
            yield ParameterFragment(
                spec=spec,
                tensor_rank=self.grid.tensor.rank,
                tensor_size=self.grid.tensor.size,
                start=address.start,
                length=address.length,
                states={MASTER: partition.detach()[own], **states},
            )

    def row_states(self) -> Iterator[RowState]:
        """Yield the optimizer's states of the rows of matrices that this rank owns."""
        yield from self._client_optimizer.row_states()

    @torch.no_grad()
    def sync_model_weights(self) -> None:
        """Copy the master weights into the model; collective."""
        self._zero_view.sync_model_weights()

    def close(self) -> None:
        """Release the model and DeepSpeed's state, after a barrier."""
        dist.barrier()
        if self._grad_reducer is not None:
            self._grad_reducer.close()
        self._engine.destroy()
        del self._engine, self._zero_view, self._client_optimizer
        del self._grad_reducer, self._parameters
        gc.collect()  # hooks and parameters form reference cycles

    def _make_grad_reducer(self) -> OverlappedGradReducer | None:
        buffers = self._zero_view.unreduced_gradients()
        if not buffers:
            return None
        self._engine.enable_backward_allreduce = False
        return OverlappedGradReducer(
            buffers,
            self.grid.data,
            order=list(self.module.parameters()),
            bucket_elements=OVERLAP_BUCKET,
        )

    def _layouts(self, rate_factors: Mapping[str, float]) -> list[PartitionLayout]:
        """Build the layout of each partition."""
        addresses = [self._zero_view.address(parameter) for _, parameter in self._parameters]
        return [
            PartitionLayout.build(
                self.specs,
                sorted(
                    (at.offset, at.offset + at.length, number, at.start)
                    for number, at in enumerate(addresses)
                    if at is not None and at.partition == index
                ),
                rate_factors=rate_factors,
                tensor_rank=self.grid.tensor.rank,
                tensor_size=self.grid.tensor.size,
                device=self.device,
            )
            for index in range(len(self._zero_view.partitions()))
        ]
