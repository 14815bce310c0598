"""Sections of a published model's card beyond those of an export: revisions, ONNX, losses."""

from mmbert.hub.for_libraries.int8_graph import LEAST_COSINE
from mmbert.hub.publishing.publication import CheckpointLosses, Publication

FLOAT32_GRAPH = "onnx/model.onnx"
INT8_GRAPH = "onnx/model_int8.onnx"

_REVISIONS = """
## Revisions

Each kept checkpoint of the run is a revision, named by its step: this one is `{name}`
(`from_pretrained("PATH_OR_NAME", revision="{name}")` on the hub, a folder of that name elsewhere).
`main` is the newest one. `publication.json` says how a revision was checked.
"""
_ONNX = """
## ONNX

The encoder, for inputs of any length and batches of any size: `input_ids` and `attention_mask` in,
`last_hidden_state` out.

| file | weights | check |
| --- | --- | --- |
{rows}

Vectors are the mean over the tokens of a text, here with the float32 graph
(`pip install onnxruntime transformers`):

```python
import numpy
import onnxruntime
from transformers import AutoTokenizer

# A folder; of a name on the hub, huggingface_hub.snapshot_download("PATH_OR_NAME") makes one.
folder = "PATH_OR_NAME"
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder + "/{graph}")
inputs = dict(tokenizer(["one text", "another"], padding=True, return_tensors="np"))
(hidden,) = session.run(["last_hidden_state"], inputs)
mask = inputs["attention_mask"][:, :, None]
vectors = numpy.sum(hidden * mask, axis=1) / numpy.sum(mask, axis=1)
```
"""


def card_sections(name: str, publication: Publication) -> str:
    """Return the sections of the revision `name`, as Markdown."""
    losses = _losses(publication.losses, causal=publication.objective == "causal")
    parts = [_REVISIONS.format(name=name), _onnx(publication), losses]
    return "".join(parts)


def _onnx(publication: Publication) -> str:
    found, vectors = publication.hidden_states, publication.int8
    rows = []
    if found is not None:
        rows.append(
            f"| `{FLOAT32_GRAPH}` | float32 | hidden states differ from the training program's by"
            f" at most {found.max_difference:.1e} (largest: {found.max_value:.2f}) |"
        )
    if vectors is not None and INT8_GRAPH not in publication.left_out:
        rows.append(
            f"| `{INT8_GRAPH}` | int8, activations quantized as they come | mean cosine of its"
            f" vectors to the training program's, over {vectors.texts} held-out texts:"
            f" {vectors.mean_cosine:.4f} (lowest {vectors.lowest_cosine:.4f}; at least"
            f" {LEAST_COSINE} is required) |"
        )
    text = _ONNX.format(rows="\n".join(rows), graph=FLOAT32_GRAPH) if rows else ""
    left_out = [
        f"`{file}` is not published: {why}.\n" for file, why in publication.left_out.items()
    ]
    return text + "".join("\n" + line for line in left_out)


def _losses(losses: CheckpointLosses, *, causal: bool) -> str:
    rows = []
    if losses.training is not None:
        what = "training on next tokens" if causal else "training"
        rows.append(f"| {what}, mean of the last logged interval | {losses.training:.4f} |")
    if losses.held_out is not None:
        rows.append(f"| held-out text, at step {losses.held_out_step:,} | {losses.held_out:.4f} |")
        rows += [f"| … tier `{name}` | {loss:.4f} |" for name, loss in losses.tiers.items()]
        if losses.unigram is not None:
            rows.append(f"| … of a unigram model | {losses.unigram:.4f} |")
    if not rows:
        return "\n## Losses\n\nNot known: the run has no log.\n"
    text = "\n## Losses\n\nIn nats per masked token.\n\n| text | loss |\n| --- | ---: |\n"
    text += "\n".join(rows) + "\n"
    if losses.languages:
        text += "\n<details><summary>Held-out loss by language</summary>\n\n"
        text += "| language | loss |\n| --- | ---: |\n"
        text += "\n".join(f"| {name} | {loss:.4f} |" for name, loss in losses.languages.items())
        text += "\n\n</details>\n"
    return text
