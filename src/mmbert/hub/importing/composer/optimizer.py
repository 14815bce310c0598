"""State of StableAdamW in a Composer checkpoint.

torch-optimi folds the bias correction into the betas, so its moments are the corrected averages,
which this project's StableAdamW also keeps: they are copied unchanged.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbert.errors import CheckpointError
from mmbert.hub.importing.composer.weights import hugging_face_name, require_finite
from mmbert.hub.weights import DECODER_WEIGHT

MOMENTS = ("exp_avg", "exp_avg_sq")
_WEIGHTS_ONLY = "import the weights alone: --weights-only"


class OptimizerState:
    """Settings and moments of the only optimizer of a checkpoint, by Hugging Face's names.

    Raises CheckpointError if the optimizer is not StableAdamW, or its state does not fit the model.

    Attributes:
        steps: optimizer steps so far, over all phases.
        peak_learning_rate: rate at which `weight_decay` applies in full.
        next_learning_rate: rate of the next step.
        betas, eps, weight_decay: settings of the group with weight decay.
    """

    def __init__(
        self, path: Path, state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._path, self._shapes = path, shapes
        saved = _stable_adamw(path, state)
        groups: list[Mapping[str, Any]] = saved["param_groups"]
        owners = _owners(path, groups, _names_in_order(state))
        decays = {key: _single(path, groups, key) for key in ("beta1", "beta2", "eps", "max_lr")}
        self.steps = int(_single(path, groups, "step"))
        self.peak_learning_rate = decays["max_lr"]
        self.next_learning_rate = _single(path, groups, "lr")
        self.betas = (decays["beta1"], decays["beta2"])
        self.eps = decays["eps"]
        self.weight_decay = self._check_decay(groups, owners)
        self._states = {name: saved["state"].get(key) for name, (key, _) in owners.items()}
        missing = [name for name in shapes if not isinstance(self._states.get(name), Mapping)]
        if missing:
            raise CheckpointError(
                f"{path}: the optimizer has no state of {missing[0]}", remedy=_WEIGHTS_ONLY
            )
        for name in shapes:
            for moment in MOMENTS:
                self._check_moment(name, moment)

    def read(self, name: str, moment: str) -> Tensor:
        """Return a moment of a parameter, float32. Raises CheckpointError if it is invalid."""
        tensor: Tensor = self._states[name][moment]
        require_finite(self._path, f"{moment} of {name}", tensor)
        if moment == "exp_avg_sq" and bool((tensor < 0).any()):
            raise CheckpointError(
                f"{self._path}: exp_avg_sq of {name} has negative values",
                remedy="the checkpoint is damaged; use another one",
            )
        return tensor

    def _check_moment(self, name: str, moment: str) -> None:
        tensor = self._states[name].get(moment)
        shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else None
        if shape != self._shapes[name] or tensor.dtype != torch.float32:
            kind = f"{tensor.dtype}{list(shape)}" if shape is not None else type(tensor).__name__
            raise CheckpointError(
                f"{self._path}: {moment} of {name} is {kind}, not"
                f" torch.float32{list(self._shapes[name])}",
                remedy=_WEIGHTS_ONLY,
            )

    def _check_decay(
        self, groups: Sequence[Mapping[str, Any]], owners: Mapping[str, tuple[object, int]]
    ) -> float:
        """Return the weight decay of all but norms and biases, which this project also exempts.

        Raises CheckpointError for another rule.
        """
        found: set[float] = set()
        for name, shape in self._shapes.items():
            decay = float(groups[owners[name][1]]["weight_decay"]) if name in owners else 0.0
            if len(shape) > 1 and not name.endswith(".bias"):
                found.add(decay)
            elif decay:
                raise CheckpointError(
                    f"{self._path}: weight decay {decay:g} applies to {name}; this project exempts"
                    " norms and biases",
                    remedy=_WEIGHTS_ONLY,
                )
        if len(found) > 1:
            values = ", ".join(f"{value:g}" for value in sorted(found))
            raise CheckpointError(
                f"{self._path}: weight decay differs between weights ({values})",
                remedy=_WEIGHTS_ONLY,
            )
        return found.pop()


def _stable_adamw(path: Path, state: Mapping[str, Any]) -> Mapping[str, Any]:
    optimizers = state.get("optimizers")
    if not isinstance(optimizers, Mapping) or not optimizers:
        raise CheckpointError(f"{path} has no optimizer state", remedy=_WEIGHTS_ONLY)
    if list(optimizers) != ["StableAdamW"]:
        raise CheckpointError(
            f"{path}: the optimizer is {', '.join(map(str, optimizers))}, not StableAdamW, whose"
            " moments alone are those of this project",
            remedy=_WEIGHTS_ONLY,
        )
    saved = optimizers["StableAdamW"]
    valid = (
        isinstance(saved, Mapping)
        and isinstance(saved.get("state"), Mapping)
        and isinstance(saved.get("param_groups"), list)
        and saved["param_groups"]
        and all(
            isinstance(group, Mapping) and isinstance(group.get("params"), list)
            for group in saved["param_groups"]
        )
    )
    if not valid:
        raise CheckpointError(f"{path}: the optimizer state is malformed", remedy=_WEIGHTS_ONLY)
    return saved


def _names_in_order(state: Mapping[str, Any]) -> dict[str, int]:
    """Return the dimensions of every parameter, in the model's order, tied weights once."""
    found = {hugging_face_name(str(name)): tensor.ndim for name, tensor in state["model"].items()}
    return {name: ndim for name, ndim in found.items() if name != DECODER_WEIGHT}


def _owners(
    path: Path, groups: Sequence[Mapping[str, Any]], names: Mapping[str, int]
) -> dict[str, tuple[object, int]]:
    """Return the key of every parameter in the optimizer's state, and its group.

    Keys are names, or integers (torch before 2.3): these count the parameters by group, each group
    in the model's order.
    """
    keys = [(key, number) for number, group in enumerate(groups) for key in group["params"]]
    if not all(type(key) is int for key, _ in keys):
        return {hugging_face_name(str(key)): (key, number) for key, number in keys}
    exempt = [name for name, ndim in names.items() if ndim <= 1 or name.endswith(".bias")]
    others = [name for name in names if name not in set(exempt)]
    ordered = [exempt, others] if len(groups) == 2 else [list(names)]
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(part) for part in ordered]:
        raise CheckpointError(
            f"{path}: the optimizer numbers {' + '.join(map(str, sizes))} parameters, the model has"
            f" {len(exempt)} norms and biases and {len(others)} others",
            remedy=_WEIGHTS_ONLY,
        )
    flat = [name for part in ordered for name in part]
    return dict(zip(flat, keys, strict=True))


def _single(path: Path, groups: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the value of `key`, which must be a number and the same in all groups."""
    values = []
    for group in groups:
        value = group.get(key)
        value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise CheckpointError(
                f"{path}: the optimizer's {key} is {value!r}, not a number", remedy=_WEIGHTS_ONLY
            )
        values.append(float(value))
    if len(set(values)) != 1:
        raise CheckpointError(
            f"{path}: the optimizer's {key} differs between groups ({values})",
            remedy=_WEIGHTS_ONLY,
        )
    return values[0]
