"""The models that can be packed: ModernBERT, alone or inside sentence-transformers."""

from typing import Any

from torch import nn

from mmbert.errors import ModelError

MODULE = "transformers.models.modernbert.modeling_modernbert"
ENCODER = "ModernBertModel"
MASKED_LM = "ModernBertForMaskedLM"
SEQUENCE = "ModernBertForSequenceClassification"
TOKENS = "ModernBertForTokenClassification"
QUESTIONS = "ModernBertForQuestionAnswering"
KNOWN = (ENCODER, MASKED_LM, SEQUENCE, TOKENS, QUESTIONS)
CONTAINERS = ("sentence_transformers.", "pylate.")
"""Packages whose models hold a Hugging Face model and call it as anybody would."""


def kind_of(module: nn.Module) -> str | None:
    """Return the class of a known Hugging Face model by name, or None. Subclasses are others."""
    cls = type(module)
    return cls.__name__ if cls.__module__ == MODULE and cls.__name__ in KNOWN else None


def encoder_of(module: nn.Module) -> Any:
    """Return the ModernBertModel of a known Hugging Face model."""
    return module if kind_of(module) == ENCODER else module.model


def models_in(model: object) -> list[nn.Module]:
    """Return the known Hugging Face models of `model`: itself, or those that it holds.

    Raises:
        ModelError: it is neither a known model nor a SentenceTransformer, CrossEncoder or the like
            that holds one.
    """
    if isinstance(model, nn.Module) and kind_of(model):
        return [model]
    found = known_inside(model)
    if found and any(cls.__module__.startswith(CONTAINERS) for cls in type(model).__mro__):
        return list(found.values())
    name = type(model).__name__
    if any(cls.__module__.startswith("peft.") for cls in type(model).__mro__):
        raise lora_error(name)
    if found:
        path = next(iter(found))
        raise ModelError(
            f"{name} is not a model that can be packed, but {path} inside it is",
            remedy=f"pack that: mmbert.pack(model.{path}); before wrapping it for"
            " torch.nn.parallel or torch.compile",
        )
    raise ModelError(
        f"{name} is not a model that can be packed",
        remedy=f"give one of transformers' {', '.join(KNOWN)}, or a SentenceTransformer,"
        " CrossEncoder or PyLate model that holds one",
    )


def known_inside(model: object) -> dict[str, nn.Module]:
    """Return the outermost known Hugging Face models inside `model`, by their path."""
    if not isinstance(model, nn.Module):  # CrossEncoder before sentence-transformers 4
        model = getattr(model, "model", None)
        if not isinstance(model, nn.Module):
            return {}
        return {"model": model} if kind_of(model) else known_inside(model)
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if kind_of(module) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


class QueryExpansion:
    """Tokens of queries that count although nothing attends to them, as in ColBERT.

    PyLate and the multi-vector models of sentence-transformers append them with an attention mask
    of 0 and score their vectors, which a packed row does not have.
    """

    def __init__(self, holder: Any) -> None:
        self.holder = holder

    def counts(self, width: int) -> bool:
        """Whether the masked tokens of a batch of this width may be such tokens."""
        if getattr(self.holder, "do_query_expansion", False):  # PyLate
            return not self.holder.attend_to_expansion_tokens and width == self.holder.query_length
        expansion = getattr(self.holder, "query_expansion", None)
        if not expansion or expansion.get("attend"):
            return False
        return expansion.get("strategy") != "fixed" or width == expansion.get("length")


def expansion_in(model: object) -> QueryExpansion | None:
    """Return the query expansion of a model of sentence-transformers or PyLate, if it has one."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    for part in parts:
        if hasattr(part, "do_query_expansion") or hasattr(part, "query_expansion"):
            return QueryExpansion(part)
    return None


def lora_error(name: str) -> ModelError:
    """Return the error for LoRA and other adapters."""
    return ModelError(
        f"{name} is an adapter (LoRA or the like), whose layers the packed encoder would not call",
        remedy="merged weights work: model = model.merge_and_unload(), then mmbert.pack(model); to"
        " train adapters, use the model unpacked",
    )
