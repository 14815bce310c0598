"""Work units: file ranges grouped by size, independent of the number of workers."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict

from mmbert_prep.readers import FileRange, plan_ranges
from mmbert_prep.readers.discovery import Discovery
from mmbert_prep.readers.registry import FORMATS, check_conditions
from mmbert_prep.settings import PrepSettings

_MIN_UNIT_BYTES, _MAX_UNIT_BYTES = 2_000_000, 64_000_000
_TARGET_UNITS = 256


class WorkUnit(BaseModel):
    """Input of one task, encoded into one intermediate shard."""

    model_config = ConfigDict(frozen=True)

    key: str
    """Hash of the ranges and settings; names the files of the intermediate shard."""
    file_ranges: tuple[FileRange, ...]
    input_bytes: int


class WorkPlan(BaseModel):
    """All work units, in the order of their documents in the shards."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    """Hash of all units and settings: equal for equal input and settings."""
    units: tuple[WorkUnit, ...]
    settings: dict[str, object]

    @property
    def input_bytes(self) -> int:
        """Input bytes of all work units."""
        return sum(unit.input_bytes for unit in self.units)


def plan_work_units(found: Discovery, settings: PrepSettings) -> WorkPlan:
    """Divide the input into work units: large files are split, small ones are grouped."""
    if settings.where:
        check_conditions(found.files, settings)
    total = sum(file.size for file in found.files if FORMATS[file.format].local)
    unit_bytes = settings.unit_bytes or min(
        _MAX_UNIT_BYTES, max(_MIN_UNIT_BYTES, total // _TARGET_UNITS)
    )
    with ThreadPoolExecutor(8) as pool:  # mostly waits for the file system
        divided = pool.map(lambda file: plan_ranges(file, unit_bytes, settings), found.files)
        file_ranges = [file_range for parts in divided for file_range in parts]
    groups: list[list[FileRange]] = []
    group_bytes = 0
    for file_range in file_ranges:
        if not groups or group_bytes + file_range.input_bytes > unit_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(file_range)
        group_bytes += file_range.input_bytes
    output_settings = settings.output_settings()
    units = tuple(_work_unit(group, output_settings) for group in groups)
    joined = "".join(unit.key for unit in units) + json.dumps(output_settings, sort_keys=True)
    fingerprint = hashlib.sha256(joined.encode()).hexdigest()
    return WorkPlan(fingerprint=fingerprint, units=units, settings=output_settings)


# Settings that do not affect intermediate shards. Changing them keeps finished ones.
_UNUSED_BY_UNITS = {
    "contexts",
    "deduplicate",
    "earlier_sources",
    "heldout_share",
    "maximum_tokens_per_language",
    "shard_tokens",
    "source",
    "unit_bytes",
}


def _work_unit(file_ranges: list[FileRange], output_settings: dict[str, object]) -> WorkUnit:
    settings = {
        name: value for name, value in output_settings.items() if name not in _UNUSED_BY_UNITS
    }
    content = [[_key_content(file_range) for file_range in file_ranges], settings]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    input_bytes = sum(file_range.input_bytes for file_range in file_ranges)
    return WorkUnit(key=key, file_ranges=tuple(file_ranges), input_bytes=input_bytes)


def _key_content(file_range: FileRange) -> dict[str, object]:
    # `weight` is the former name of `input_bytes`; the fingerprints of finished outputs contain it.
    content = file_range.model_dump(mode="json")
    content["weight"] = content.pop("input_bytes")
    return content
