"""Model card (README.md) of an exported model."""

from dataclasses import dataclass
from typing import Any

import yaml

from mmbert import __version__
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.verification import LogitComparison

_TEMPLATE = """\
---
{metadata}---

# {name}

A multilingual encoder of the ModernBERT architecture for masked language modeling, exported by
mmBERT-train {version}. {sentence}
{objective}
| | |
| --- | --- |
| parameters | {parameters:,} |
| layers, width, heads | {layers}, {width}, {heads} |
| vocabulary | {vocabulary:,} |
| maximum input length | {context:,} tokens |
| rotary bases | {global_base:g} (global layers), {local_base:g} (local layers) |
| weights | {dtype} |

## Use

```python
from transformers import pipeline

fill = pipeline("fill-mask", model="PATH_OR_NAME")
fill("... {mask} ...")
```

These are pretrained weights: fine-tune them for classification, retrieval and similar tasks.
`SentenceTransformer("PATH_OR_NAME")` starts from the mean of the last hidden states.

With its head, which gives logits, as ONNX, for inputs of any length and batches of any size
(`pip install onnx onnxscript`):

```python
import torch
from transformers import AutoModelForMaskedLM

model = AutoModelForMaskedLM.from_pretrained("PATH_OR_NAME").eval()
inputs = {{name: torch.ones(2, 16, dtype=torch.int64) for name in ("input_ids", "attention_mask")}}
free = dict.fromkeys(inputs, dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC))
torch.onnx.export(model, f="model.onnx", kwargs=inputs, dynamic_shapes=free, dynamo=True)
```

## License

{license}

## Verification

At export, the logits that transformers computes from this folder were compared in float32 with
those of the training program: {comparison}.
"""

_CAUSAL = """
**Its training ended in a causal phase.** It was last trained to predict the next token from those
before it; here, transformers lets every token attend to both sides. It predicts masked tokens
badly, and is a start for further training, not a finished encoder.
"""
_NO_LICENSE = """\
Not stated. Whoever publishes the weights chooses their license, with regard to the licenses of the
training text, which are unknown to this card. Replace this paragraph, and `license` at the top."""
_LICENSE = """\
`{license}`, chosen by whoever published the weights; the licenses of the training text are unknown
to this card."""


@dataclass(frozen=True)
class CardParts:
    """Parts of a card that not every export has.

    `sections` is Markdown, after the verification; `license` a name that the hub knows.
    """

    sections: str = ""
    license: str | None = None


def model_card(
    *,
    name: str,
    model: HuggingFaceModel,
    parameters: int,
    dtype: str,
    mask_token: str,
    comparison: LogitComparison,
    provenance: dict[str, Any],
    language_tokens: dict[str, int],
    recipe: str | None,
    parts: CardParts = CardParts(),
) -> str:
    """Build the card as Markdown with YAML metadata.

    `language_tokens` (training tokens by `iso639-3_Script`) and `recipe` (YAML) are included if
    known.
    """
    encoder = model.encoder
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        **({} if model.objective == "causal" else {"pipeline_tag": "fill-mask"}),
        "license": parts.license or "unknown",
        "tags": [
            "modernbert",
            "masked-lm",
            "multilingual",
            "sentence-transformers",
            "mmbert-train",
        ],
    }
    if language_tokens:
        codes = {language.split("_")[0] for language in language_tokens}
        # Hugging Face metadata accepts only natural languages, not code.
        metadata["language"] = sorted(code for code in codes if len(code) == 3)
    text = _TEMPLATE.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True),
        name=name,
        version=__version__,
        sentence=_sentence(provenance),
        objective=_CAUSAL if model.objective == "causal" else "",
        parameters=parameters,
        layers=encoder.num_hidden_layers,
        width=encoder.hidden_size,
        heads=encoder.num_attention_heads,
        vocabulary=encoder.vocab_size,
        context=model.context,
        global_base=model.rotary_bases.global_,
        local_base=model.rotary_bases.local_,
        dtype=dtype,
        mask=mask_token,
        comparison=comparison,
        license=_NO_LICENSE if parts.license is None else _LICENSE.format(license=parts.license),
    )
    text += parts.sections
    if language_tokens:
        text += _languages(language_tokens)
    text += "\n## Origin\n\n```yaml\n" + _yaml(provenance) + "```\n"
    if recipe is not None:
        text += "\n## Recipe\n\n```yaml\n" + recipe + "```\n"
    return text


def _sentence(provenance: dict[str, Any]) -> str:
    if provenance["kind"] == "checkpoint":
        began = " Training started from the weights of `started_from` below."
        return (
            f"It is the checkpoint of step {provenance['step']:,} ({provenance['tokens']:,}"
            f" tokens), phase `{provenance['phase']}`, of the recipe `{provenance['recipe']}`"
            + (f", variant `{provenance['variant']}`." if "variant" in provenance else ".")
            + (began if "started_from" in provenance else "")
        )
    if provenance["kind"] == "merge":
        how = {"ties": "the TIES merge", "linear": "the weighted mean"}.get(
            provenance["method"], "an exponentially weighted average"
        )
        return f"It is {how} of {len(provenance['models'])} models, listed below."
    if provenance["kind"] == "import":
        return "It was imported as a starting point for training, from the source below."
    return "Its source is given below."


def _languages(tokens: dict[str, int]) -> str:
    total = sum(tokens.values())
    lines = [
        f"\n## Languages\n\n{len(tokens):,} languages, {total:,} training tokens in total.\n",
        "<details><summary>Tokens by language</summary>\n",
        "| language | tokens | share |",
        "| --- | ---: | ---: |",
    ]
    for language, count in sorted(tokens.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"| {language} | {count:,} | {count / total:.3%} |")
    return "\n".join([*lines, "\n</details>\n"])


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
