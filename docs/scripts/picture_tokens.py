"""Picture of a token's path: from text through shards, rows and masks to the loss."""

from itertools import pairwise
from random import Random

import altair as alt

from docs.scripts.drawing import INK, QUIET, Arrow, Box, Shape, Text, Tile, figure

_STEP, _BOX_HEIGHT, _BOX_WIDTH = 66, 52, 290
_DRAWING, _SPAN = 350, 460
_WIDTH = _DRAWING + _SPAN + 10
_HUES = ("#9db9dd", "#e9c88f", "#a9cfb4", "#d3b3d6", "#c9c9c9")
_MASKED, _PAD, _EMPTY = "#27466f", "#eceff3", "#f3f5f8"
_CELLS = 58
# Lengths of the segments of the row that is drawn, in cells; the last cell is padding.
_SEGMENTS = (22, 9, 15, 7, 4)
_MASK_RATIO = 0.3
_TEMPERATURE = 0.3
_SIZES = {"eng_Latn": 1000.0, "swh_Latn": 60.0, "mlt_Latn": 8.0}

_GROUPS = (
    ("Preprocessing: once, on CPUs", "program", 4),
    ("Loading: on CPUs", "file", 3),
    ("Model: on every device", "model", 4),
)
_STEPS = (
    ("Text", "any format, many languages"),
    ("Clean", "control characters, normalization, rejection"),
    ("Tokenize", "SentencePiece or Hugging Face tokenizer"),
    ("Shard", "deduplicate, hold out, merge by language"),
    ("Sampler", "language by size ** τ, then a document"),
    ("Packer", "documents, cut at the context, fill a row"),
    ("Mask", "a fraction of the tokens, by seed and row"),
    ("Embedding", "[tokens, width], and a norm"),
    ("Layers", "every third attends globally, others locally"),
    ("Head", "on masked positions only"),
    ("Loss", "cross-entropy, over the tied decoder"),
)


def chart() -> alt.LayerChart:
    """Return the picture."""
    boxes: list[Box] = []
    shapes: list[Shape] = []
    y, steps = 0.0, iter(_STEPS)
    for title, kind, count in _GROUPS:
        shapes.append(Box(0, y, _WIDTH, 28 + _STEP * count, title, (), "group"))
        y += 28
        for _ in range(count):
            name, about = next(steps)
            boxes.append(Box(16, y, _BOX_WIDTH, _BOX_HEIGHT, name, (about,), kind))
            y += _STEP
        y += 12
    drawings = (
        *(_text, _clean, _tokens, _shard, _sampler, _packer, _mask),
        *(_embedding, _layers, _head, _loss),
    )
    for box, drawing in zip(boxes, drawings, strict=True):
        shapes.append(box)
        shapes += drawing(box.y + _BOX_HEIGHT / 2)
    shapes += [Arrow((above.bottom(), below.top())) for above, below in pairwise(boxes)]
    return figure(_WIDTH, int(y), shapes, description="Path of a token from text to the loss")


def _note(y: float, text: str, x: float = _DRAWING) -> Text:
    return Text(x, y, text, 10.5, QUIET)


def _text(y: float) -> list[Shape]:
    return [
        Text(_DRAWING, y - 9, "Habari ya asubuhi, dunia!\\x07", 12, INK),
        _note(y + 10, "swh_Latn.jsonl.zst"),
    ]


def _clean(y: float) -> list[Shape]:
    return [
        Text(_DRAWING, y - 9, "Habari ya asubuhi, dunia!", 12, INK),
        _note(y + 10, "a rejected document is counted with its reason"),
    ]


def _tokens(y: float) -> list[Shape]:
    shapes: list[Shape] = []
    x = float(_DRAWING)
    for piece in ("▁Habari", "▁ya", "▁as", "ubu", "hi", ",", "▁dunia", "!"):
        width = 14 + 7.0 * len(piece)
        shapes.append(Tile(x, y - 20, width, 20, _EMPTY, "#c3cbd6"))
        shapes.append(Text(x + width / 2, y - 10, piece, 11, INK, "center"))
        x += width + 3
    return [*shapes, _note(y + 14, "one encoding serves every phase and context")]


def _strip(y: float, lengths: tuple[int, ...], height: float = 16) -> list[Shape]:
    cell = _SPAN / _CELLS
    shapes: list[Shape] = []
    x = float(_DRAWING)
    for number, length in enumerate(lengths):
        shapes.append(Tile(x, y, cell * length - 1.5, height, _HUES[number % len(_HUES)]))
        x += cell * length
    return shapes


def _shard(y: float) -> list[Shape]:
    return [
        *_strip(y - 18, (13, 4, 21, 6, 14)),
        _note(y + 12, ".bin: whole documents end to end; .idx: where each begins; memory-mapped"),
    ]


def _sampler(y: float) -> list[Shape]:
    shapes: list[Shape] = []
    for top, exponent, name in ((y - 22, 1.0, "size"), (y - 2, _TEMPERATURE, "sampled")):
        weights = [size**exponent for size in _SIZES.values()]
        x = _DRAWING + 56.0
        shapes.append(_note(top + 8, name))
        for number, (language, weight) in enumerate(zip(_SIZES, weights, strict=True)):
            width = (_SPAN - 56) * weight / sum(weights)
            shapes.append(Tile(x, top, max(width - 1.5, 0.5), 16, _HUES[number]))
            if width > 50:
                shapes.append(Text(x + width / 2, top + 8, language, 10, INK, "center"))
            x += width
    return [*shapes, _note(y + 25, f"τ = {_TEMPERATURE:g} in this drawing")]


def _packer(y: float) -> list[Shape]:
    cell = _SPAN / _CELLS
    padding = Tile(_DRAWING + cell * sum(_SEGMENTS), y - 18, cell, 16, _PAD, "#c3cbd6")
    return [
        *_strip(y - 18, _SEGMENTS),
        padding,
        _note(
            y + 12, "one row = one microbatch; cu_seqlens marks the borders; the rest is padding"
        ),
    ]


def _masked_cells() -> list[int]:
    """Return the cells that the drawing masks; which ones carries no meaning."""
    eligible = sum(_SEGMENTS)
    return sorted(Random(1).sample(range(eligible), round(_MASK_RATIO * eligible)))


def _mask(y: float) -> list[Shape]:
    cell = _SPAN / _CELLS
    covers: list[Shape] = [
        Tile(_DRAWING + cell * place, y - 18, cell - 1.5, 16, _MASKED) for place in _masked_cells()
    ]
    return [
        *_strip(y - 18, _SEGMENTS),
        *covers,
        _note(y + 12, "of the selected tokens 80% become [MASK], 10% random, 10% stay (default)"),
    ]


def _embedding(y: float) -> list[Shape]:
    cell = _SPAN / _CELLS
    columns: list[Shape] = [
        Tile(_DRAWING + cell * place, y - 24, cell - 1.5, 28, _HUES[2]) for place in range(_CELLS)
    ]
    return [*columns, _note(y + 17, "vocabulary rows are split over the tensor group")]


def _layers(y: float) -> list[Shape]:
    """Draw which tokens attend to which: within documents, in whole or in a window."""
    shapes: list[Shape] = []
    for x, window, name in ((_DRAWING, None, "global"), (_DRAWING + 170.0, 2, "local")):
        shapes.append(Tile(x, y - 28, 56, 56, _EMPTY, "#c3cbd6"))
        start = 0
        for number, length in enumerate((6, 3, 5)):
            for i in range(length):
                first = 0 if window is None else max(0, i - window)
                last = length if window is None else min(length, i + window + 1)
                shapes.append(
                    Tile(
                        x + 4 * (start + first),
                        y - 28 + 4 * (start + i),
                        4 * (last - first),
                        4,
                        _HUES[number],
                    )
                )
            start += length
        shapes.append(Text(x + 66, y - 8, name, 11, INK, bold=True))
        shapes.append(_note(y + 8, "in documents" if window is None else "in a window", x + 66))
    return [*shapes, _note(y, "heads and widths are split", _DRAWING + 300)]


def _head(y: float) -> list[Shape]:
    cell = _SPAN / _CELLS
    kept: list[Shape] = [
        Tile(_DRAWING + cell * place, y - 18, cell - 1.5, 16, _MASKED)
        for place in range(len(_masked_cells()))
    ]
    return [*kept, _note(y + 12, "[masked tokens, width]: dense, GELU, norm")]


def _loss(y: float) -> list[Shape]:
    return [
        Text(_DRAWING, y - 9, "mean over all masked tokens of the global batch", 12, INK),
        _note(y + 10, "the same on any number of ranks; logits are computed in chunks"),
    ]
