"""What inside a live model the packed encoder would compute wrongly, refused by name.

The packed encoder reads the weights of the live layers and does not call the layers themselves, so
they must be what transformers made them. Looked at when packing and at every call.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mmbert.errors import ModelError
from mmbert.hub.live.models import MODULE, lora_error

_PLAIN = {nn.Linear, nn.LayerNorm, nn.Embedding, nn.Identity, nn.Dropout, nn.ModuleList}
_GELU = {"GELUActivation", "GELU"}
# Hooks that transformers itself leaves on a model, and that may stay uncalled: those of 5.x that
# capture outputs do nothing but in a call of its own, and gradient checkpointing's makes the
# embeddings' output require a gradient, which only the reentrant checkpoints need.
_IDLE_HOOKS = ("output_capturing_hook", "make_inputs_require_grads")


def refuse_changed_layers(root: nn.Module, name: str, *, root_is_called: bool) -> None:
    """Raise ModelError if a module below `root` is not what transformers made it.

    Args:
        root: a module whose weights are read and whose inner modules are not called.
        name: its path in the model, for messages; may be empty.
        root_is_called: whether `root` itself is called, so that its hooks and its `forward` count.
    """
    if not root_is_called:
        _refuse(root, name)
    for child_name, child in root._modules.items():
        if child is not None:
            refuse_changed_layers(
                child, f"{name}.{child_name}" if name else child_name, root_is_called=False
            )


def _refuse(module: Any, name: str) -> None:
    kind = type(module)
    if kind not in _PLAIN and kind.__module__ != MODULE and not _is_gelu(module):
        raise _exchanged(module, name)
    if kind is nn.Dropout and module.p:
        raise _dropout(name, module.p)
    own = module.__dict__.get("forward")
    if own is not None and not getattr(own, "is_packed_forward", False):
        raise ModelError(
            f"{name} has a `forward` of its own, which the packed encoder would not call",
            remedy="take out what put it there (accelerate's device maps, patches), or use the"
            " model unpacked",
        )
    if module._forward_hooks or module._forward_pre_hooks or (
        module._backward_hooks or module._backward_pre_hooks
    ):  # fmt: skip
        _refuse_hooks(module, name)
    dropout = getattr(module, "attention_dropout", 0)
    if dropout:
        raise _dropout(f"{name}.attention_dropout", dropout)


def _is_gelu(module: Any) -> bool:
    return type(module).__name__ in _GELU and getattr(module, "approximate", "none") == "none"


def _refuse_hooks(module: nn.Module, name: str) -> None:
    for hook in _hooks(module):
        called = getattr(hook, "__qualname__", type(hook).__name__)
        of_transformers = (getattr(hook, "__module__", None) or "").startswith("transformers.")
        if not (of_transformers and called.endswith(_IDLE_HOOKS)):
            raise ModelError(
                f"{name} has a hook ({called}), which would not run: the packed encoder does not"
                " call the layers",
                remedy="remove the hook (output_hidden_states=True gives the layers' states), or"
                " use the model unpacked",
            )


def _hooks(module: nn.Module) -> Iterator[Any]:
    for hooks in (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ):
        yield from hooks.values()


def _exchanged(module: nn.Module, name: str) -> ModelError:
    kind = type(module)
    if kind.__module__.startswith("peft.") or hasattr(module, "lora_A"):
        return lora_error(f"{name} ({kind.__name__})")
    if "FullyShardedDataParallel" in kind.__name__:
        return sharded_error(name, "FSDP")
    return ModelError(
        f"{name} is a {kind.__module__}.{kind.__name__}, not the layer that transformers put there",
        remedy="put the original layer back, or use the model unpacked",
    )


def _dropout(name: str, probability: float) -> ModelError:
    return ModelError(
        f"{name} is {probability}: the packed encoder has no dropout there",
        remedy="load the model with attention_dropout=0.0, mlp_dropout=0.0, embedding_dropout=0.0"
        " (the values of the published models), or use it unpacked",
    )


def sharded_error(name: str, how: str) -> ModelError:
    """Return the error for weights that another library holds in pieces."""
    return ModelError(
        f"{name} is sharded by {how}, which gathers it only when its own layer is called",
        remedy="use DistributedDataParallel or ZeRO 1 or 2, or the model unpacked",
    )


def refuse_weight(weight: Any, name: str, expected: tuple[int, ...], *, any_rows: bool) -> None:
    """Raise ModelError unless `weight` is a whole, plain tensor of the expected shape.

    `any_rows`: whether its first dimension may differ, as after `resize_token_embeddings`.
    """
    if hasattr(weight, "ds_id"):
        raise sharded_error(name, "ZeRO 3")
    kind = type(weight)
    if "DTensor" in kind.__name__:
        raise sharded_error(name, "FSDP or another user of DTensor")
    if kind is not nn.Parameter and kind is not Tensor:
        raise ModelError(
            f"{name} is a {kind.__module__}.{kind.__name__}, not a plain parameter",
            remedy="use quantized and other wrapped weights unpacked",
        )
    shape = tuple(weight.shape)
    if shape != expected and not (any_rows and shape[1:] == expected[1:]):
        raise ModelError(
            f"{name} has shape {list(shape)}; the model was packed with {list(expected)}",
            remedy="mmbert.unpack(model), correct model.config, and mmbert.pack(model) again",
        )
