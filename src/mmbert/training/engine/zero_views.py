"""Common interface to DeepSpeed's three ZeRO optimizers.

They differ in the location of the float32 masters, the lookup of a parameter's fragment, and the
reduction of gradients. Does not import deepspeed: the engine passes its objects.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from mmbert.parallel.gradient_hooks import attach_main_grad
from mmbert.parallel.process_grid import ProcessGrid


class FragmentAddress(NamedTuple):
    """Location of this rank's fragment of a parameter."""

    partition: int
    """Index of the flat partition."""
    offset: int
    """First element in the partition."""
    start: int
    """First element in the flattened parameter."""
    length: int


class ZeroView(Protocol):
    """The engine's interface to a ZeRO optimizer."""

    def partitions(self) -> list[Tensor]:
        """Return this rank's flat float32 masters, one per parameter group."""

    def address(self, parameter: Any) -> FragmentAddress | None:
        """Return the address of this rank's fragment of the parameter, or None if it has none."""

    def sync_model_weights(self) -> None:
        """Copy the master weights into the model; collective."""

    def unreduced_gradients(self) -> list[tuple[Tensor, Sequence[nn.Parameter]]]:
        """Return the flat gradient buffers that the engine must reduce, with their parameters."""


class Stage12View:
    """View of ZeRO 1 in float32, and of ZeRO 2."""

    def __init__(self, zero: Any, grid: ProcessGrid) -> None:
        self._zero = zero
        # The check reads every gradient on the host; the norm is non-finite in the same cases.
        zero.check_overflow = lambda **_: None

    def partitions(self) -> list[Tensor]:
        return list(self._zero.single_partition_of_fp32_groups)

    def address(self, parameter: Any) -> FragmentAddress | None:
        return _mapped_address(parameter)

    def sync_model_weights(self) -> None:
        self._zero.update_lp_params()

    def unreduced_gradients(self) -> list[tuple[Tensor, Sequence[nn.Parameter]]]:
        return []


class Bf16View:
    """View of ZeRO 1 in bfloat16, with float32 gradient accumulation.

    The engine reduces the gradients, because DeepSpeed would start after the last backward pass.
    """

    def __init__(self, zero: Any, grid: ProcessGrid) -> None:
        self._zero = zero
        self._attach_main_grads()

    def partitions(self) -> list[Tensor]:
        return list(self._zero.fp32_groups_flat_partition)

    def address(self, parameter: Any) -> FragmentAddress | None:
        return _mapped_address(parameter)

    def sync_model_weights(self) -> None:
        self._zero.update_lp_params()

    def unreduced_gradients(self) -> list[tuple[Tensor, Sequence[nn.Parameter]]]:
        flats, groups = self._zero.fp32_groups_gradients_flat, self._zero.bf16_groups
        return list(zip(flats, groups, strict=True))

    def _attach_main_grads(self) -> None:
        """Accumulate gradients into the float32 buffers without DeepSpeed's float32 copy.

        Operations add float32 gradients themselves (see `attach_main_grad`). bfloat16 gradients are
        added by a replacement of DeepSpeed's `_update_hp_grad`.
        """
        sums = self._zero.fp32_groups_gradients
        for parameters, totals in zip(self._zero.bf16_groups, sums, strict=True):
            for parameter, total in zip(parameters, totals, strict=True):
                attach_main_grad(parameter, total.view(parameter.shape))

        def add(parameter: nn.Parameter, group: int, index: int, clear_lp_grads: bool) -> None:
            if parameter.grad is not None:
                sums[group][index].add_(parameter.grad.view(sums[group][index].shape))
                self._zero.fp32_groups_has_gradients[group][index] = True

        self._zero._update_hp_grad = add


class Stage3View:
    """View of ZeRO 3, which splits each parameter evenly over the data ranks, padded at the end."""

    def __init__(self, zero: Any, grid: ProcessGrid) -> None:
        self._zero, self._rank = zero, grid.data.rank

    def partitions(self) -> list[Tensor]:
        return list(self._zero.fp32_partitioned_groups_flat)

    def address(self, parameter: Any) -> FragmentAddress | None:
        group, offset, padded = self._zero.grad_position[self._zero.get_param_id(parameter)]
        start = self._rank * padded
        length = min(padded, parameter.ds_numel - start)
        return FragmentAddress(group, offset, start, length) if length > 0 else None

    def sync_model_weights(self) -> None:
        self._zero._partition_all_parameters()
        for sub_group in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(sub_group)
        if self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    def unreduced_gradients(self) -> list[tuple[Tensor, Sequence[nn.Parameter]]]:
        return []


# Views by the name of DeepSpeed's optimizer class.
VIEWS: dict[str, Callable[[Any, ProcessGrid], ZeroView]] = {
    "DeepSpeedZeroOptimizer": Stage12View,
    "BF16_Optimizer": Bf16View,
    "DeepSpeedZeroOptimizer_Stage3": Stage3View,
}


def zero_view(zero: Any, grid: ProcessGrid) -> ZeroView:
    """Wrap a ZeRO optimizer that DeepSpeed has just created."""
    return VIEWS[type(zero).__name__](zero, grid)


def _mapped_address(parameter: Any) -> FragmentAddress | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    assert here.numel == there.numel
    return FragmentAddress(mapping.param_group_index, here.start, there.start, here.numel)
