"""A packed model against itself unpacked, on one batch: loss, outputs and gradients."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.errors import ModelError
from mmbert.hub.live.detours import unpacked_calls
from mmbert.hub.live.forward import PackedForward
from mmbert.hub.live.models import SEQUENCE, encoder_of, kind_of

LOSS_TOLERANCE, OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 2e-6, 5e-6
"""Largest differences in float32, relative to the loss and to each tensor's largest entry."""
ERROR_FACTOR = 1.5
"""Largest error, relative to the unpacked model's own, in bfloat16 and float16."""
_SMALL, _GRADIENT = 0.1, "the gradient of "
_OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")


@dataclass(frozen=True)
class Measured:
    """What one way computes on a batch."""

    loss: Tensor
    outputs: dict[str, Tensor]
    """By name, at the real tokens."""
    gradients: dict[str, Tensor]
    """By parameter; those without a gradient are left out."""


def validate_packed(model: Any, batch: Mapping[str, Any]) -> None:
    """Compare a packed Hugging Face model with itself unpacked on `batch`.

    In training mode, without dropout of the head, for loss and gradients; in evaluation mode for
    outputs. Without labels the loss is the outputs' distance to fixed noise. Gradients, mode and
    weights of the model are left as they are. Under autocast, or with weights in half precision,
    both are compared with the unpacked model in float32; where float32 differs by more than the
    tolerances, in float64.

    Raises:
        ModelError: a difference above the tolerances, or a batch that goes the unpacked way.
    """
    weight = encoder_of(model).embeddings.tok_embeddings.weight
    inputs = _inputs(model, batch, weight.device)
    packed = measure(model, inputs)
    _refuse_detours(model)
    with unpacked_calls():
        unpacked = measure(model, inputs)
        device = weight.device.type
        exact = weight.dtype in (torch.float32, torch.float64)
        if exact and not torch.is_autocast_enabled(device):
            difference = _first_difference(packed, unpacked)
            if difference is None:
                return
            if weight.dtype == torch.float64:
                raise difference
            # A deep model's own rounding may exceed the tolerances: then float64 is the judge.
            reference = copy.deepcopy(model).double()
        else:
            difference, reference = None, model if exact else copy.deepcopy(model).float()
        with torch.autocast(device, enabled=False):
            exactly = measure(reference, _like(inputs, reference))
        _compare_errors(packed, unpacked, exactly, difference)


def _like(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the inputs with embeddings and other numbers in the dtype of the model's weights."""
    dtype = encoder_of(model).embeddings.tok_embeddings.weight.dtype
    floats = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return inputs | {name: value.to(dtype) for name, value in floats.items()}


def _inputs(model: Any, batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return what of `batch` the model's forward takes, on its device."""
    known = PackedForward(model).__signature__.parameters
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
        if name in known and value is not None
    }


def _refuse_detours(model: Any) -> None:
    for module in {id(m): m for m in (model, encoder_of(model))}.values():
        forward = module.__dict__.get("forward")
        for reason in getattr(getattr(forward, "detours", None), "counts", ()):
            raise ModelError(
                f"the batch given as validate goes the unpacked way, for {reason}",
                remedy="give a batch without it; or pack without validate, and such calls will not"
                " be faster",
            )


def measure(model: Any, inputs: dict[str, Any]) -> Measured:
    """Compute loss, outputs and gradients of `model` as it is called now."""
    modes = [(module, module.training) for module in model.modules()]
    kept = {name: parameter.grad for name, parameter in model.named_parameters()}
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_without_dropout(model))
            model.eval()
            with torch.no_grad():
                outputs = _outputs(model, inputs)
            model.train()
            for parameter in model.parameters():
                parameter.grad = None
            found = model(**inputs, return_dict=True)
            loss = found.loss if getattr(found, "loss", None) is not None else None
            if loss is None:
                loss = _distance_to_noise(_at_real_tokens(model, found, inputs))
            if loss.requires_grad:
                loss.backward()
            gradients = {
                name: parameter.grad
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        return Measured(loss.detach(), outputs, gradients)
    finally:
        for module, mode in modes:
            module.training = mode
        for name, parameter in model.named_parameters():
            parameter.grad = kept[name]


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Set the probability of every dropout to 0: the two ways draw other masks."""
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    kept = [module.p for module in dropouts]
    try:
        for module in dropouts:
            module.p = 0.0
        yield
    finally:
        for module, probability in zip(dropouts, kept, strict=True):
            module.p = probability


def _outputs(model: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    return _at_real_tokens(model, model(**inputs, return_dict=True), inputs)


def _at_real_tokens(model: Any, output: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    mask = inputs.get("attention_mask")
    by_token = kind_of(model) != SEQUENCE and not getattr(model, "sparse_prediction", False)
    found = {}
    for name in _OUTPUTS:
        value = getattr(output, name, None)
        if value is not None:
            found[name] = value[mask.bool()] if by_token and mask is not None else value
    return found


def _distance_to_noise(outputs: dict[str, Tensor]) -> Tensor:
    """Return the outputs' mean square distance to fixed noise, a loss that reaches every weight."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for value in outputs.values():
        noise = torch.randn(value.shape, generator=generator).to(value.device)
        parts.append((value.float() - noise).square().mean())
    return torch.stack(parts).sum()


@dataclass(frozen=True)
class Pair:
    """A tensor computed in two ways."""

    name: str
    ours: Tensor
    true: Tensor
    tolerance: float
    """Largest difference in float32."""
    least: float = 0.0
    """Size below which a tensor's own does not count."""

    def difference(self) -> float:
        """Return the largest difference, relative to the largest entry of `true`."""
        return self._relative(lambda tensor: float(tensor.abs().max()))

    def error(self) -> float:
        """Return the difference's root mean square, relative to that of `true`."""
        return self._relative(lambda tensor: float(tensor.square().mean().sqrt()))

    def _relative(self, size: Callable[[Tensor], float]) -> float:
        if not self.true.numel():
            return 0.0
        difference = size(self.ours.double() - self.true.double())
        return difference / max(size(self.true.double()), self.least) if difference else 0.0


def pairs(ours: Measured, true: Measured, *, small: float = 0.0) -> Iterator[Pair]:
    """Yield what is compared. Raises ModelError if a gradient is missing on one side.

    `small`: share of the largest entry of all gradients below which a gradient's own size does not
    count.
    """
    yield Pair("the loss", ours.loss, true.loss, LOSS_TOLERANCE)
    for name, value in true.outputs.items():
        yield Pair(name, ours.outputs[name], value, OUTPUT_TOLERANCE)
    if ours.gradients.keys() != true.gradients.keys():
        only = sorted(ours.gradients.keys() ^ true.gradients.keys())
        raise _difference(f"the gradient of {only[0]}", "missing in one of them", "none")
    least = small * max((float(g.abs().max()) for g in true.gradients.values()), default=0.0)
    for name, value in true.gradients.items():
        what = f"{_GRADIENT}{name}"
        yield Pair(what, ours.gradients[name], value, GRADIENT_TOLERANCE, least)


def _first_difference(packed: Measured, unpacked: Measured) -> ModelError | None:
    """Return an error for the first difference above the tolerances of float32, or None."""
    for pair in pairs(packed, unpacked):
        difference = pair.difference()
        if not difference <= pair.tolerance:
            return _difference(pair.name, f"{difference:.1e}", f"{pair.tolerance:.0e} in float32")
    return None


def _compare_errors(
    packed: Measured, unpacked: Measured, exact: Measured, difference: ModelError | None
) -> None:
    """Raise ModelError where `packed` is farther from `exact` than `unpacked` is, by the factor.

    `difference`, of float32, is raised if given; what is within the tolerances of `exact` is then
    right, however little the unpacked model is off. Single gradients may be right by chance, and
    are compared with the worst of the unpacked model's; all of them by the median, as is the loss.
    Those that are 0 but for rounding, as of question answering's bias, are measured by the others.
    """
    errors, theirs = (
        {pair.name: pair.error() for pair in pairs(measured, exact, small=_SMALL)}
        for measured in (packed, unpacked)
    )
    right = set[str]()
    if difference is not None:
        right |= {p.name for p in pairs(packed, exact) if p.difference() <= p.tolerance}
    gradients = [name for name in errors if name.startswith(_GRADIENT)]
    middle = sorted(theirs.values())[len(theirs) // 2]
    limits = theirs | {"the loss": max(theirs["the loss"], middle)}
    if gradients:
        limits |= dict.fromkeys(gradients, max(theirs[name] for name in gradients))
        errors["the gradients' median error"], limits["the gradients' median error"] = (
            median(found[name] for name in gradients) for found in (errors, theirs)
        )
    for name, error in errors.items():
        if name not in right and not error <= ERROR_FACTOR * limits[name]:
            limit = f"{ERROR_FACTOR} times the unpacked model's own error of {limits[name]:.1e}"
            raise difference or _difference(name, f"{error:.1e}", limit)


def _difference(what: str, found: str, allowed: str) -> ModelError:
    return ModelError(
        f"packed and unpacked differ in {what}: {found}, allowed {allowed}",
        remedy="use this model unpacked (it was left so), and report the difference with the"
        " model's configuration",
    )
