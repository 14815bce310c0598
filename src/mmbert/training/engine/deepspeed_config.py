"""Configuration of the DeepSpeed engine, its process grid, and checks of the recipe.

Does not import deepspeed; only engine.py does.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mmbert.errors import RecipeError
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_buffers import BUCKET_ELEMENTS, MAX_LIVE_PARAMETERS
from mmbert.recipe import Recipe


class ModelParallelUnit:
    """The process grid in DeepSpeed's `mpu` interface.

    Do not add methods: DeepSpeed looks some up by name (for example, those of Ulysses) and changes
    its behavior if they exist.
    """

    def __init__(self, grid: ProcessGrid) -> None:
        self._grid = grid

    def get_model_parallel_rank(self) -> int:
        return self._grid.tensor.rank

    def get_model_parallel_world_size(self) -> int:
        return self._grid.tensor.size

    def get_model_parallel_group(self) -> dist.ProcessGroup | None:
        return self._grid.tensor.group

    def get_data_parallel_rank(self) -> int:
        return self._grid.data.rank

    def get_data_parallel_world_size(self) -> int:
        return self._grid.data.size

    def get_data_parallel_group(self) -> dist.ProcessGroup | None:
        return self._grid.data.group

    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_group = get_model_parallel_group


def check_supported(model: nn.Module, recipe: Recipe, grid: ProcessGrid) -> None:
    """Refuse models and recipes that would train incorrectly.

    Raises:
        RecipeError: parallel.zero_stage is unsupported, or parallel.tensor does not match the grid.
        RuntimeError: torch.distributed does not match the grid, or a parameter is frozen or not
            float32.
    """
    if recipe.parallel.zero_stage not in (1, 2, 3):
        raise RecipeError(
            f"parallel.zero_stage={recipe.parallel.zero_stage} is not supported: without ZeRO, "
            "DeepSpeed's bfloat16 optimizer reports a wrong gradient norm and takes an extra step",
            remedy="set parallel.zero_stage to 1 (on one data rank it costs nothing), 2 or 3",
        )
    if recipe.parallel.tensor != grid.tensor.size:
        raise RecipeError(
            f"parallel.tensor={recipe.parallel.tensor} does not match the grid's tensor-parallel "
            f"size {grid.tensor.size}",
            remedy="build the grid with the recipe's parallel.tensor",
        )
    if not dist.is_initialized() or dist.get_world_size() != grid.world_size:
        raise RuntimeError("torch.distributed is not initialized with the ranks of the grid")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter.dtype != torch.float32:
            raise RuntimeError(f"{name}: parameters must be float32 and require gradients")


def deepspeed_settings(model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """Return the DeepSpeed configuration; it sets every key whose default would change a result."""
    stage = recipe.parallel.zero_stage
    bucket = min(BUCKET_ELEMENTS, sum(parameter.numel() for parameter in model.parameters()))
    values: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": recipe.optimizer.gradient_clipping or 0.0,
        "gradient_allreduce_op": "mean" if stage == 3 else "sum",
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
        # Disabled: synchronizes with the device before each forward pass and after the step.
        "timers": {"throughput": {"enabled": False}},
        "wall_clock_breakdown": False,
        "zero_optimization": {
            "stage": stage,
            # ZeRO 1 reduces once per step: in bfloat16 by gradient_reducer.py, during the last
            # backward pass; in float32 (CPUs and tests) by DeepSpeed, after it.
            "overlap_comm": stage > 1,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            # ZeRO 2 all-reduces its buckets, with twice the necessary traffic. DeepSpeed's
            # alternative, one reduction per rank, synchronizes with the device before each.
            "use_multi_rank_bucket_allreduce": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": MAX_LIVE_PARAMETERS,
            # One partition per parameter group, as StableAdamW and checkpoints expect.
            "sub_group_size": 10**15,
        },
    }
    if recipe.precision == "bfloat16":
        values["bf16"] = {"enabled": True, "immediate_grad_update": True}
        values["data_types"] = {"grad_accum_dtype": "fp32"}
    return values
