"""What stands in for `forward` of models with a head of every token, computed at real tokens alone.

A sequence classifier needs nothing here: its own forward pools what the packed encoder returns.
"""

from typing import Any, ClassVar

import torch
from packaging.version import Version
from torch import Tensor, nn

from mmbert.hub.live.detours import DetourError
from mmbert.hub.live.forward import (
    Call,
    PackedEncoder,
    PackedForward,
    refuse_second_derivatives,
)
from mmbert.hub.live.padding import IGNORED_LABEL, Padding
from mmbert.hub.live.refusals import refuse_changed_layers
from mmbert.hub.live.twin import masked_losses
from mmbert_kernels import gather_rows


class PackedHead(PackedForward):
    """A model with `model`, the encoder, and modules for every token on top of it."""

    def __init__(self, model: Any, encoder: PackedEncoder) -> None:
        super().__init__(model)
        self.encoder = encoder

    read_only: ClassVar[tuple[str, ...]] = ("model",)
    """Modules whose weights are read, and which are not called."""

    def refuse(self) -> None:
        """Raise ModelError for changed layers; see `refuse_changed_layers`."""
        for name in self.read_only:
            refuse_changed_layers(getattr(self.model, name), name, root_is_called=False)

    def encode(self, call: Call, padding: Padding) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Compute the encoder's last hidden states [T, d], and all if asked for."""
        self.refuse()
        return self.encoder.rows(call, padding)

    def labels_of(self, call: Call) -> Tensor | None:
        """Return `labels`, which must have the shape of the batch."""
        labels: Tensor | None = call.arguments.get("labels")
        if labels is not None and labels.shape != call.tokens.shape[:2]:
            raise DetourError(f"labels of shape {list(labels.shape)}")
        return labels


class PackedMaskedLM(PackedHead):
    """In place of `ModernBertForMaskedLM.forward`."""

    read_only = ("model", "head", "decoder")

    def __init__(self, model: Any, encoder: PackedEncoder) -> None:
        super().__init__(model, encoder)
        from transformers import __version__

        self.loss_takes_count = Version(__version__) >= Version("4.53")
        """Whether transformers hands `num_items_in_batch` to this model's loss."""

    def packed(self, call: Call) -> Any:
        from transformers.modeling_outputs import MaskedLMOutput

        model = self.model
        if getattr(model.loss_function, "__name__", "") != "ForMaskedLMLoss":
            raise DetourError("a loss function of its own")
        labels = self.labels_of(call)
        labelled = None if labels is None else self._labelled(labels)
        padding = call.padding(counted=labelled)
        rows, states = self.encode(call, padding)
        loss = logits = None
        if labels is None:
            logits = padding.unpack(model.decoder(model.head(rows)))
        else:
            assert labelled is not None
            at = padding.pack(labelled).nonzero()[:, 0]
            chosen = padding.pack(labels).to(rows.device, torch.int64)[at]
            if model.training:
                at_labels = gather_rows(rows, at, ascending=True)
                losses = masked_losses(self.encoder.twins.model, model, at_labels, chosen)
                loss = self._reduced(losses, call)
            else:
                kept = rows[at] if model.sparse_prediction else rows
                logits = model.decoder(model.head(kept))
                at_labels = logits if model.sparse_prediction else logits[at]
                loss = self._reduced(
                    nn.functional.cross_entropy(at_labels.float(), chosen, reduction="none"), call
                )
                logits = logits if model.sparse_prediction else padding.unpack(logits)
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=states)
        if call.returns_dict:
            return output
        if not self.encoder.last_state_is_normed:  # as long as that, tuples have no states
            output = MaskedLMOutput(loss=loss, logits=logits)
        return output.to_tuple()

    def _labelled(self, labels: Tensor) -> Tensor:
        """Return where the loss counts, bool [B, S]."""
        labelled = labels != IGNORED_LABEL
        if self.model.sparse_prediction:
            labelled &= labels != self.model.sparse_pred_ignore_index
        return labelled

    def _reduced(self, losses: Tensor, call: Call) -> Tensor:
        items = call.arguments.get("num_items_in_batch") if self.loss_takes_count else None
        refuse_second_derivatives(losses)
        if items is None:
            return losses.mean()
        return losses.sum() / (items.to(losses.device) if isinstance(items, Tensor) else items)


class PackedTokenClassification(PackedHead):
    """In place of `ModernBertForTokenClassification.forward`."""

    def packed(self, call: Call) -> Any:
        from transformers.modeling_outputs import TokenClassifierOutput

        model = self.model
        labels = self.labels_of(call)
        padding = call.padding(counted=None if labels is None else labels != IGNORED_LABEL)
        rows, states = self.encode(call, padding)
        logits = model.classifier(model.drop(model.head(rows)))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, padding.pack(labels))
        output = TokenClassifierOutput(
            loss=loss, logits=padding.unpack(logits), hidden_states=states
        )
        return output if call.returns_dict else output.to_tuple()


class PackedQuestionAnswering(PackedHead):
    """In place of `ModernBertForQuestionAnswering.forward`.

    The unpacked model's loss lets the padding compete for the answer, with numbers that depend on
    the implementation of attention; with positions and padding the call goes that way.
    """

    def packed(self, call: Call) -> Any:
        from transformers.modeling_outputs import QuestionAnsweringModelOutput

        model = self.model
        starts, ends = (call.arguments.get(f"{name}_positions") for name in ("start", "end"))
        padding = call.padding()
        if starts is not None and ends is not None and padding.indices is not None:
            raise DetourError("the loss of question answering, which counts the padding")
        rows, states = self.encode(call, padding)
        logits = padding.unpack(model.classifier(model.drop(model.head(rows))))
        start_logits, end_logits = (part[..., 0].contiguous() for part in logits.split(1, dim=-1))
        loss = None
        if starts is not None and ends is not None:
            items = {name: value for name, value in call.arguments.items()
                     if name == "num_items_in_batch"}  # fmt: skip
            loss = model.loss_function(start_logits, end_logits, starts, ends, **items)
        output = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, hidden_states=states
        )
        return output if call.returns_dict else output.to_tuple()
