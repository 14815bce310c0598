"""What stands in for `forward` of a live model, and for the encoder's in particular."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.errors import ModelError
from mmbert.hub.live.detours import DetourError, DetourLog, calls_go_unpacked, unpacked_calls
from mmbert.hub.live.models import QueryExpansion
from mmbert.hub.live.padding import Padding, find_padding
from mmbert.hub.live.refusals import refuse_changed_layers
from mmbert.hub.live.twin import Twins

# Arguments that are read, or change nothing here; others send a call the unpacked way.
_READ = {
    "input_ids", "attention_mask", "inputs_embeds", "labels", "start_positions", "end_positions",
    "output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch", "use_cache",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call of a packed model, read."""

    tokens: Tensor
    """ids int64 [B, S], or embeddings [B, S, d]."""
    mask: Any
    wants_states: bool
    returns_dict: bool
    arguments: dict[str, Any]
    """All arguments that are not None, by name."""

    def padding(self, *, counted: Tensor | None = None) -> Padding:
        """Find the real tokens; see `find_padding`."""
        batch, width = self.tokens.shape[:2]
        return find_padding(self.mask, batch, width, self.tokens.device, counted=counted)


class PackedForward:
    """Callable in place of `model.forward`, with the signature of the class's own.

    It is an attribute of the model's instance. Copies and pickles of the model take it along.
    """

    is_packed_forward = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.detours = DetourLog(type(model).__name__)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.model).forward.__get__(self.model))

    # What is inside reads lengths on the host and points modules at weights: not for a graph.
    @torch.compiler.disable
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] is self.model:
            args = args[1:]  # accelerate's unwrap_model binds what it finds as a method
        if calls_go_unpacked():
            return self.unpacked(*args, **kwargs)
        try:
            return self.packed(self.read(*args, **kwargs))
        except DetourError as reason:
            self.detours.add(str(reason))
        with unpacked_calls():
            return self.unpacked(*args, **kwargs)

    def refuse(self) -> None:
        """Raise ModelError for changed layers; see `refuse_changed_layers`."""
        raise NotImplementedError

    def packed(self, call: Call) -> Any:
        """Compute the output, or raise DetourError."""
        raise NotImplementedError

    def unpacked(self, *args: Any, **kwargs: Any) -> Any:
        """Call the class's own forward."""
        return type(self.model).forward(self.model, *args, **kwargs)

    def read(self, *args: Any, **kwargs: Any) -> Call:
        """Read the arguments. Raises DetourError for one that the packed way does not know."""
        bound = self._signature.bind(*args, **kwargs).arguments
        named = bound.pop("kwargs", {})
        arguments = {n: value for n, value in (bound | named).items() if value is not None}
        for name in arguments:
            if name not in _READ:
                raise DetourError(f"the argument {name}")
        config = self.model.config

        def setting(name: str, default: object) -> Any:
            return arguments.get(name, getattr(config, name, default))

        if setting("output_attentions", False):
            raise DetourError("output_attentions")
        states = setting("output_hidden_states", False)
        if not isinstance(states, bool):
            raise DetourError("output_hidden_states by index")
        ids, embeddings = arguments.get("input_ids"), arguments.get("inputs_embeds")
        tokens = ids if embeddings is None else embeddings
        expected = 2 if embeddings is None else 3
        if tokens is None or (ids is not None and embeddings is not None):
            raise DetourError("neither or both of input_ids and inputs_embeds")
        if tokens.ndim != expected:
            raise DetourError(f"an input of {tokens.ndim} dimensions")
        mask = arguments.get("attention_mask")
        returns = bool(setting("return_dict", True))
        return Call(tokens, mask, states, returns, arguments)

    @cached_property
    def _signature(self) -> inspect.Signature:
        return self.__signature__

    def __getstate__(self) -> dict[str, Any]:
        # Annotations of transformers cannot always be pickled.
        return {name: value for name, value in self.__dict__.items() if name != "_signature"}


class PackedEncoder(PackedForward):
    """In place of `ModernBertModel.forward`."""

    def __init__(
        self,
        model: Any,
        twins: Twins,
        *,
        first_position_is_read: bool = False,
        expansion: QueryExpansion | None = None,
    ) -> None:
        """Create it.

        Args:
            model: transformers' ModernBertModel.
            twins: ours, of the same configuration.
            first_position_is_read: whether the model's head takes each text's first position.
            expansion: of queries, by what holds the model.
        """
        super().__init__(model)
        self.twins, self.expansion = twins, expansion
        self.first_position_is_read = first_position_is_read
        # Before transformers 5.1 the last of the hidden states is the one before the final norm.
        self.last_state_is_normed = "cu_seqlens" not in self._signature.parameters

    def refuse(self) -> None:
        refuse_changed_layers(self.model, "", root_is_called=True)

    def packed(self, call: Call) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        self.refuse()
        padding = call.padding()
        rows, states = self.rows(call, padding)
        output = BaseModelOutput(last_hidden_state=padding.unpack(rows), hidden_states=states)
        return output if call.returns_dict else output.to_tuple()

    def rows(self, call: Call, padding: Padding) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Compute the last hidden states [T, d], and the hidden states [B, S, d] if asked for."""
        weight = self.model.embeddings.tok_embeddings.weight
        if call.tokens.device != weight.device:
            raise ModelError(
                f"the batch is on {call.tokens.device}, the packed model on {weight.device}",
                remedy="move the batch to the model; nn.DataParallel, which the trainers use where"
                " one process sees several GPUs, is not supported: start one process per GPU with"
                " torchrun, or set CUDA_VISIBLE_DEVICES to one",
            )
        if padding.indices is not None:
            if self.first_position_is_read and not bool(call.mask[:, 0].bool().all()):
                raise DetourError("a classifier of the first position, where a text has padding")
            if self.expansion is not None and self.expansion.counts(padding.width):
                raise DetourError("expanded queries, whose tokens count but are not attended to")
        tokens = padding.pack(call.tokens)
        states: list[Tensor] | None = [] if call.wants_states else None
        rows = self.twins.encode(
            self.model,
            tokens if tokens.is_floating_point() else tokens.long(),
            padding,
            recompute=self._recomputes(),
            states=states,
        )
        for tensor in (rows, *(states or ())):
            refuse_second_derivatives(tensor)
        if states is None:
            return rows, None
        if self.last_state_is_normed:
            states[-1] = rows
        return rows, tuple(padding.unpack(state) for state in states)

    def _recomputes(self) -> bool:
        """Whether gradient checkpointing is on, which transformers keeps at different places."""
        modules: list[nn.Module] = [self.model, *self.model.layers]
        return (
            self.model.training
            and torch.is_grad_enabled()
            and any(getattr(module, "gradient_checkpointing", False) for module in modules)
        )


def refuse_second_derivatives(tensor: Tensor) -> None:
    """Make a backward pass through `tensor` fail that is to be differentiated itself.

    Ours computes gradients outside of autograd, so that the derivative of a gradient would lack
    what the packed layers add to it.
    """

    def refuse(_: Tensor) -> None:
        if torch.is_grad_enabled():
            raise ModelError(
                "a packed model has no second derivatives (create_graph=True)",
                remedy="mmbert.unpack(model) for gradient penalties and the like",
            )

    if tensor.requires_grad:
        tensor.register_hook(refuse)
