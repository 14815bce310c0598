"""A run of mmBERT's size without text: recipe, hashed document lengths, a late data state."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmbert.data.loading.data_state import DataCursor, DataState
from mmbert.data.sampling.permutation import splitmix64
from mmbert.data.sampling.phase_sampler import PieceLocator, Pieces
from mmbert.recipe import Recipe

ROW_TOKENS, STREAMS, CONTEXT = 49_152, 96, 8192


def scale_recipe() -> Recipe:
    """Return a recipe with the three phases of mmBERT-base and one temperature-sampled source."""

    def phase(name: str, tokens: str, **changes: Any) -> dict[str, Any]:
        return {
            "name": name,
            "tokens": tokens,
            "context": CONTEXT,
            "mask_ratio": 0.15,
            "rotary_bases": {"global": 160_000, "local": 160_000},
            **changes,
        }

    return Recipe.model_validate(
        {
            "name": "scale",
            "model": {"preset": "base"},
            "data": {"sources": [{"name": "web"}]},
            "batch": {"row_tokens": ROW_TOKENS, "rows": STREAMS, "quantum": STREAMS},
            "optimizer": {"learning_rate": 8e-4},
            "phases": [
                phase(
                    "pretrain",
                    "2.3T",
                    context=1024,
                    temperature=0.7,
                    languages=[f"l{i:04d}_Latn" for i in range(60)],
                ),
                phase(
                    "extend",
                    "600B",
                    temperature=0.5,
                    languages=[f"l{i:04d}_Latn" for i in range(110)],
                ),
                phase("decay", "100B", temperature=0.3, languages="all"),
            ],
        }
    )


def hashed_locate(self: PieceLocator, components: np.ndarray, numbers: np.ndarray) -> Pieces:
    """Replace `PieceLocator.locate`: lengths of mean 750 from a hash of the piece's number."""
    words = splitmix64(numbers.astype(np.uint64) * np.uint64(1833) + components.astype(np.uint64))
    uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
    # exp of a logistic variable instead of log-normal: heavy-tailed enough, and in closed form
    lengths = np.exp(np.log(500.0) + np.log(uniform / (1 - uniform)) * 0.55)
    lengths = np.clip(lengths, 1, CONTEXT - 2).astype(np.int64)
    zeros = np.zeros(len(numbers), dtype=np.int64)
    return Pieces(numbers, zeros, lengths, zeros, zeros)


def state_at_the_end(cursor: DataCursor, steps: int) -> DataState:
    """Return the data state after the second phase, with stream positions scattered by lengths."""
    random = np.random.default_rng(0)
    ended = []
    for phase in range(2):
        pieces = cursor._mixtures[phase].pieces.sum() / STREAMS
        # standard deviation of a sum of n lengths whose own deviation is 1.5 times their mean
        positions = pieces + random.normal(0, 1.5 * np.sqrt(pieces), STREAMS)
        ended.append({"positions": positions.astype(int).tolist(), "returned": []})
    state = cursor.state_dict(steps, {n: cursor.streams[n] for n in range(STREAMS)})
    state["phase"] = 1
    state["ended"] = ended[:1]  # type: ignore[typeddict-item]
    for number in range(STREAMS):
        state["streams"][str(number)] = {
            "position": ended[1]["positions"][number],
            "carried": [],
            "kept": [],
        }
    return state
