"""What a publication would do, as a table."""

import math
from pathlib import Path

from mmbert.checkpoint.format import Index
from mmbert.command_line.tables import WholeTable
from mmbert.hub.for_libraries.int8_graph import LEAST_COSINE, TEXTS
from mmbert.hub.publishing.card_sections import FLOAT32_GRAPH, INT8_GRAPH
from mmbert.hub.publishing.place import MAIN, Place
from mmbert.hub.publishing.publish import Plan
from mmbert.hub.weights import WEIGHTS_FILE

_MEGABYTE = 10**6


def plan_table(plan: Plan, place: Place) -> WholeTable:
    """Return the revisions of `plan`, what of each is written, and about how many bytes."""
    table = WholeTable(title=f"{place}: {len(plan.missing)} of {len(plan.revisions)} to publish")
    for heading in ("revision", "tokens", "phase", "weights and graphs", "about", "state"):
        right = heading in ("tokens", "about")
        table.add_column(heading, justify="right" if right else "left")
    files = ", ".join(_files(plan))
    for one in plan.revisions:
        # Float32 twice; int8 a quarter of that.
        size = _parameters(one.checkpoint) * (4 + 4 * plan.contents.onnx + _has_int8(plan))
        state = "published" if one.published else "to publish"
        table.add_row(
            f"{one.name} = {MAIN}" if one is plan.revisions[-1] else one.name,
            f"{one.tokens:,}",
            one.phase,
            "" if one.published else files,
            "" if one.published else f"{math.ceil(size / _MEGABYTE):,} MB",
            state,
        )
    if plan.contents.documents is not None and not _has_int8(plan):
        table.caption = (
            f"{INT8_GRAPH} is left out: it is checked on {TEXTS} held-out texts, and the shards"
            f" have {len(plan.contents.documents)}"
        )
    elif _has_int8(plan):
        table.caption = f"{INT8_GRAPH}: if its mean cosine is at least {LEAST_COSINE}"
    if plan.causal:
        left_out = f"left out, as they are of causal phases: {', '.join(plan.causal)}"
        table.caption = f"{table.caption}; {left_out}" if table.caption else left_out
    return table


def _has_int8(plan: Plan) -> bool:
    documents = plan.contents.documents
    return documents is not None and len(documents) >= TEXTS


def _files(plan: Plan) -> list[str]:
    files = [WEIGHTS_FILE]
    if plan.contents.onnx:
        files.append(FLOAT32_GRAPH)
    if _has_int8(plan):
        files.append(INT8_GRAPH)
    return files


def _parameters(checkpoint: Path) -> int:
    return sum(math.prod(one.shape) for one in Index.read(checkpoint).parameters.values())
