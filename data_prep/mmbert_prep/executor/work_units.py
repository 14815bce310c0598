"""Units of work: segments of the input grouped by size, the same for any number of workers."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict

from mmbert_prep.readers import Segment, plan_segments
from mmbert_prep.readers.discovery import Discovery
from mmbert_prep.settings import PrepSettings

_LEAST_UNIT, _MOST_UNIT = 2_000_000, 64_000_000
_UNITS_AIMED_AT = 256


class Unit(BaseModel):
    """What a worker does in one go: `key` names its results and changes with its content."""

    model_config = ConfigDict(frozen=True)

    key: str
    segments: tuple[Segment, ...]
    weight: int


class Plan(BaseModel):
    """All units in the order that fixes the order of documents."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    units: tuple[Unit, ...]
    settings: dict[str, object]

    @property
    def weight(self) -> int:
        """Input bytes of all units."""
        return sum(unit.weight for unit in self.units)


def plan_units(found: Discovery, settings: PrepSettings) -> Plan:
    """Divide the input into units, big files apart and small ones together."""
    total = sum(file.size for file in found.files if file.format != "hub")
    unit_bytes = settings.unit_bytes or min(_MOST_UNIT, max(_LEAST_UNIT, total // _UNITS_AIMED_AT))
    with ThreadPoolExecutor(8) as pool:  # waits for the file system, mostly
        divided = pool.map(lambda file: plan_segments(file, unit_bytes, settings), found.files)
        segments = [segment for parts in divided for segment in parts]
    groups: list[list[Segment]] = []
    weight = 0
    for segment in segments:
        if not groups or weight + segment.weight > unit_bytes:
            groups.append([])
            weight = 0
        groups[-1].append(segment)
        weight += segment.weight
    deciding = settings.deciding()
    units = tuple(_unit(group, deciding) for group in groups)
    joined = "".join(unit.key for unit in units) + json.dumps(deciding, sort_keys=True)
    fingerprint = hashlib.sha256(joined.encode()).hexdigest()
    return Plan(fingerprint=fingerprint, units=units, settings=deciding)


# Settings that act after a unit is encoded: changing them does not redo units.
_AFTER_UNITS = {"contexts", "shard_tokens", "deduplicate", "maximum_tokens_per_language", "source"}
_AFTER_UNITS |= {"heldout_share", "unit_bytes"}


def _unit(segments: list[Segment], deciding: dict[str, object]) -> Unit:
    settings = {name: value for name, value in deciding.items() if name not in _AFTER_UNITS}
    content = [[segment.model_dump(mode="json") for segment in segments], settings]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    weight = sum(segment.weight for segment in segments)
    return Unit(key=key, segments=tuple(segments), weight=weight)
