"""Picture of the system: programs, the files between them, and the parts of training."""

from itertools import pairwise

import altair as alt

from docs.scripts.drawing import QUIET, Arrow, Box, Text, figure

_WIDTH, _HEIGHT = 820, 566


def _box(x: float, y: float, width: float, height: float, kind: str, *texts: str) -> Box:
    title, *lines = texts
    return Box(x, y, width, height, title, tuple(lines), kind)


_TEXT = _box(0, 40, 150, 76, "file", "Text", "many languages:", "Parquet, JSON lines,", "text, …")
_PREPROCESS = _box(
    *(200, 40, 190, 76, "program", "Preprocessing"),
    *(
        "clean, deduplicate, hold out,",
        "train or take a tokenizer,",
        "encode: any number of workers",
    ),
)
_SHARDS = _box(
    *(440, 40, 200, 76, "file", "Token shards"),
    *(".bin and .idx per language,", "manifest, tokenizer,", "index of pieces per context"),
)
_RECIPE = _box(
    *(690, 40, 130, 76, "file", "Recipe"),
    *("one YAML file:", "model, data, phases,", "variants, merge"),
)
_TRAINING = _box(
    0, 160, _WIDTH, 216, "group", "Training: one command, on one CPU or on many GPU nodes"
)
_ORDER = _box(
    *(20, 190, 180, 76, "program", "Data order"),
    *("languages by size ** τ,", "packed rows and masks,", "the same on any grid"),
)
_ENCODER = _box(
    *(250, 190, 180, 76, "model", "Encoder"),
    *("ModernBERT,", "fused kernels,", "tensor parallelism"),
)
_OPTIMIZER = _box(
    480, 190, 150, 76, "model", "Optimizer", "StableAdamW or Muon,", "DeepSpeed ZeRO 1–3"
)
_GUARD = _box(680, 190, 120, 76, "program", "Guard", "bad steps, spikes,", "hanging ranks")
_PHASES = (
    _box(20, 300, 250, 56, "program", "Phase 1: pretrain", "few languages, short context"),
    _box(310, 300, 230, 56, "program", "Phase 2: extension", "more languages, long context"),
    _box(580, 300, 220, 56, "program", "Phase 3: decay", "all languages, falling rate"),
)
_CHECKPOINTS = _box(
    *(0, 420, 200, 130, "file", "Checkpoints"),
    *("slices of every parameter", "and optimizer state,", "checksums, recipe, place in"),
    "the data: resume on any grid",
)
_MERGE = _box(
    *(290, 420, 190, 56, "program", "Merge"),
    *("TIES or mean of variants,", "average of checkpoints"),
)
_EXPORT = _box(290, 494, 190, 56, "program", "Export", "one checkpoint")
_HUB = _box(
    *(570, 420, 250, 130, "file", "Hugging Face folder"),
    *("config.json, model.safetensors,", "tokenizer, model card.", "Written once its logits match"),
    "those of transformers, which reads it",
)


def chart() -> alt.LayerChart:
    """Return the picture."""
    boxes = (
        *(_TEXT, _PREPROCESS, _SHARDS, _RECIPE, _TRAINING, _ORDER, _ENCODER, _OPTIMIZER, _GUARD),
        *(*_PHASES, _CHECKPOINTS, _MERGE, _EXPORT, _HUB),
    )
    top, recipe, shards = _RECIPE.top(), _RECIPE.bottom(), _SHARDS.bottom()
    below = _TRAINING.y + _TRAINING.height
    hub = _HUB.top(0.3)
    arrows = (
        Arrow((_TEXT.right, _PREPROCESS.left)),
        Arrow((_PREPROCESS.right, _SHARDS.left)),
        Arrow((top, (top[0], 20), (_PREPROCESS.top()[0], 20), _PREPROCESS.top())),
        Arrow((shards, (shards[0], _TRAINING.y))),
        Arrow((recipe, (recipe[0], _TRAINING.y))),
        *(Arrow((a.right, b.left)) for a, b in pairwise((_ORDER, _ENCODER, _OPTIMIZER, _GUARD))),
        *(Arrow((a.right, b.left)) for a, b in pairwise(_PHASES)),
        Arrow(((_CHECKPOINTS.top()[0], below), _CHECKPOINTS.top())),
        Arrow((hub, (hub[0], below))),
        *(Arrow(((200, box.left[1]), box.left)) for box in (_MERGE, _EXPORT)),
        *(Arrow((box.right, (_HUB.x, box.right[1]))) for box in (_MERGE, _EXPORT)),
    )
    notes = (
        Text(_PREPROCESS.top()[0] + 8, 10, "contexts, vocabulary, tokenizer", 10.5, QUIET),
        Text(shards[0] + 8, 138, "memory-mapped", 10.5, QUIET),
        Text(
            _CHECKPOINTS.top()[0] + 8, 398, "and log.jsonl, results.json, TensorBoard", 10.5, QUIET
        ),
        Text(hub[0] + 8, 398, "import: initial weights", 10.5, QUIET),
    )
    return figure(
        _WIDTH,
        _HEIGHT,
        [*boxes, *arrows, *notes],
        description="Text becomes token shards; training writes checkpoints; export writes a model",
    )
