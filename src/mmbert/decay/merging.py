"""The model of a decay: the trained one, or its merge with the start or with another model."""

from collections.abc import Callable

from mmbert.decay.layout import DecayFolder
from mmbert.decay.pinned_models import pinned_model
from mmbert.decay.request import DecayRequest
from mmbert.errors import CheckpointError
from mmbert.hub.export import export_checkpoint
from mmbert.merging.merge import MergeOptions, merge_models

Say = Callable[[str], None]


def write_model(request: DecayRequest, folder: DecayFolder, say: Say) -> None:
    """Write `folder.model` from the run's last checkpoint, merged as the request says.

    Raises:
        UserError: the run is unfinished, or the models cannot be merged.
    """
    trained, merge = folder.final_checkpoint(), request.merge
    if trained is None:
        raise CheckpointError(f"{folder.run} is unfinished", remedy="finish the training first")
    if merge.method == "ties":
        onto = pinned_model(folder, request.onto or request.model, say)
        options = MergeOptions("ties", density=merge.value)
        comparison = merge_models(
            [trained, onto], folder.model, options, base=folder.imported, say=say
        )
    elif merge.method == "linear":
        options = MergeOptions("linear", (1 - merge.value, merge.value))
        comparison = merge_models([folder.imported, trained], folder.model, options, say=say)
    else:
        comparison = export_checkpoint(trained, folder.model, say=say)
    say(f"{folder.model}: logits match transformers ({comparison})")


def merge_command(request: DecayRequest, folder: DecayFolder) -> tuple[str, ...]:
    """Return the equivalent command."""
    merge, output = request.merge, ("--output", str(folder.model))
    if merge.method == "ties":
        return (
            *("mmbert", "merge", str(folder.run), request.onto or request.model),
            *("--method", "ties", "--base", str(folder.imported)),
            *("--density", f"{merge.value:g}", *output),
        )
    if merge.method == "linear":
        weights = ("--weight", f"{1 - merge.value:g}", "--weight", f"{merge.value:g}")
        return (
            *("mmbert", "merge", str(folder.imported), str(folder.run)),
            *("--method", "linear", *weights, *output),
        )
    return ("mmbert", "export", str(folder.run), str(folder.model))


def describe_merge(request: DecayRequest) -> str:
    """Say what is merged, or that nothing is."""
    if request.merge.method == "ties":
        return (
            f"TIES merges the result with {request.onto or request.model}, relative to the "
            f"training state (density {request.merge.value:g})"
        )
    if request.merge.method == "linear":
        return (
            f"the result is mixed with the start: {request.merge.value:g} × result + "
            f"{1 - request.merge.value:g} × start"
        )
    return (
        "nothing is merged: the result is the trained model (--merge linear:0.5 mixes it with the "
        "start)"
    )
