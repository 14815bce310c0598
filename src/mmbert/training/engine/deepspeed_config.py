"""What the engine hands to DeepSpeed: the grid in its words, the optimiser, the configuration.

Also what is refused before anything starts. Imports no deepspeed: engine.py alone does.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mmbert.errors import UserError
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_buffers import BUCKET_ELEMENTS, MAX_LIVE_PARAMETERS
from mmbert.recipe import Recipe


class ModelParallelUnit:
    """The grid as DeepSpeed asks for it. It looks for other methods by name (for Ulysses, above
    all) and behaves differently if it finds them: there must be no more than these."""

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
    """Refuse by name what would train wrongly."""
    if recipe.parallel.zero_stage not in (1, 2, 3):
        raise UserError(
            f"parallel.zero_stage is {recipe.parallel.zero_stage}: without ZeRO, DeepSpeed's "
            "bfloat16 optimiser reports a wrong gradient norm and takes a step before the first",
            remedy="set parallel.zero_stage to 1 (on one data rank it costs nothing), 2 or 3",
        )
    if recipe.parallel.tensor != grid.tensor.size:
        raise UserError(
            f"parallel.tensor is {recipe.parallel.tensor}, the grid has {grid.tensor.size}",
            remedy="build the grid with the recipe's parallel.tensor",
        )
    if not dist.is_initialized() or dist.get_world_size() != grid.world_size:
        raise RuntimeError("the engine needs torch.distributed, with the grid over all its ranks")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter.dtype != torch.float32:
            raise RuntimeError(f"{name}: the engine trains every parameter, from float32")


def deepspeed_settings(model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's configuration: every key whose default would change a result is written out."""
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
        # Or it stops the device before each forward pass, and once more after the step.
        "timers": {"throughput": {"enabled": False}},
        "wall_clock_breakdown": False,
        "zero_optimization": {
            "stage": stage,
            # ZeRO 1 reduces once a step: in bfloat16 gradient_reducer.py during the last backward
            # pass; in float32, the precision of CPUs and tests, DeepSpeed when it has ended.
            "overlap_comm": stage > 1,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            # ZeRO 2 all-reduces its buckets, which is twice what it needs to send. DeepSpeed's only
            # other way, a reduction to each rank in turn, stops the device before every one.
            "use_multi_rank_bucket_allreduce": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": MAX_LIVE_PARAMETERS,
            # One partition per parameter group, as StableAdamW and the checkpoints want it.
            "sub_group_size": 10**15,
        },
    }
    if recipe.precision == "bfloat16":
        values["bf16"] = {"enabled": True, "immediate_grad_update": True}
        values["data_types"] = {"grad_accum_dtype": "fp32"}
    return values
