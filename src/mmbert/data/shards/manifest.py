"""Typed manifest.json of one language of one source: contents and checksums of its shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmbert.errors import ShardsError
from mmbert.files import checksum_file, write_json

MANIFEST_NAME = "manifest.json"

Count = Annotated[int, Field(ge=0, strict=True)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
# A name that cannot point outside the manifest's folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Dtype = Literal["uint16", "int32"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """Size in bytes and XXH3-128 of a file."""

    bytes: Count
    xxh3_128: Checksum


class ShardFiles(_Frozen):
    """The two files of a Megatron pair."""

    bin: FileEntry
    idx: FileEntry


class Shard(_Frozen):
    """One Megatron pair `<name>.bin`, `<name>.idx`."""

    name: FileName
    documents: Count
    tokens: Count
    files: ShardFiles


class PiecesEntry(_Frozen):
    """The continuation index of one context."""

    file: FileName
    continuations: Count
    xxh3_128: Checksum


class Split(_Frozen):
    """Totals of a split; `bytes` counts the UTF-8 bytes of the text."""

    documents: Count = 0
    tokens: Count = 0
    bytes: Count = 0
    shards: tuple[Shard, ...] = ()

    @model_validator(mode="after")
    def _sums_agree(self) -> Split:
        for field in ("documents", "tokens"):
            total = sum(getattr(shard, field) for shard in self.shards)
            if total != getattr(self, field):
                raise ValueError(
                    f"{field} is {getattr(self, field)}, but the shards sum to {total}"
                )
        return self


class TrainSplit(Split):
    """Train split, with a continuation index per context (key: the context)."""

    pieces: dict[int, PiecesEntry] = Field(default_factory=dict)


class NearDuplicates(_Frozen):
    """How near-duplicates of a language were found: by MinHash signatures."""

    threshold: Annotated[float, Field(ge=0.5, le=1)]
    """Jaccard similarity of two documents' shingles, from which on they are near-duplicates."""
    permutations: Count
    """Values of a signature."""
    bands: Count
    rows: Count
    """Documents whose signatures agree in one of `bands` groups of `rows` values are compared."""
    matches: Count
    """The later of two is dropped if their signatures agree in so many values."""
    shingles: str
    algorithm: str


class Manifest(_Frozen):
    """Description of one language of one source, available without opening its shards."""

    format: Literal[1] = 1
    writer: str
    source: str
    language: str
    tokenizer: str  # fingerprint of the tokenizer that made the tokens
    dtype: Dtype
    train: TrainSplit
    heldout: Split
    documents_read: Count
    rejected: dict[str, Count]
    unread_bytes: Count = 0
    """Input bytes that could not be read, or belong to damaged documents."""
    duplicates_of: dict[str, Count] = {}
    """Earlier source of the same call -> documents that were dropped because it has them."""
    near_duplicates: NearDuplicates | None = None

    @model_validator(mode="after")
    def _file_sizes_agree(self) -> Manifest:
        token_bytes = 2 if self.dtype == "uint16" else 4
        for shard in (*self.train.shards, *self.heldout.shards):
            if shard.files.bin.bytes != shard.tokens * token_bytes:
                raise ValueError(
                    f"shard {shard.name} has {shard.tokens} tokens of {self.dtype}, "
                    f"but its .bin is listed with {shard.files.bin.bytes} bytes"
                )
        return self


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json atomically, which makes the language visible."""
    # Without zero or empty newer fields: equal runs of all versions write equal bytes.
    newer = ("unread_bytes", "duplicates_of", "near_duplicates")
    exclude = {name for name in newer if not getattr(manifest, name)}
    write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json", exclude=exclude))


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Parse a manifest. Raises ShardsError naming `path` and the key."""
    remedy = (
        "restore the file from a copy, or remove summary.json from the source's folder and run the "
        "same preprocessing command again, which remakes the source"
    )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ShardsError(f"{path}: {where}: {first['msg']}", remedy=remedy) from error


def read_manifest(folder: Path) -> Manifest:
    """Read and validate `folder`/manifest.json. Raises ShardsError naming the file."""
    path = folder / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ShardsError(
            f"{path} is missing: the language is unfinished",
            remedy="run the same preprocessing command again: it continues where it stopped",
        ) from None
    return parse_manifest(data, path)


def manifest_files(manifest: Manifest) -> dict[str, tuple[int | None, str]]:
    """Map the name of every file in the manifest to (size in bytes or None, XXH3-128)."""
    files: dict[str, tuple[int | None, str]] = {}
    for shard in (*manifest.train.shards, *manifest.heldout.shards):
        for suffix in ("bin", "idx"):
            entry: FileEntry = getattr(shard.files, suffix)
            files[f"{shard.name}.{suffix}"] = (entry.bytes, entry.xxh3_128)
    for pieces in manifest.train.pieces.values():
        files[pieces.file] = (None, pieces.xxh3_128)
    return files


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Verify presence, size and checksum of every file. Raises ShardsError on the first bad one."""
    remedy = (
        f"restore the file from a copy, or remove {folder.parent / 'summary.json'} and run the "
        "same preprocessing command again, which remakes the source"
    )
    for name, (size, checksum) in manifest_files(manifest).items():
        path = folder / name
        if not path.is_file():
            raise ShardsError(f"{path} is listed in the manifest but missing", remedy=remedy)
        if size is not None and path.stat().st_size != size:
            raise ShardsError(
                f"{path} has {path.stat().st_size} bytes, the manifest says {size}",
                remedy=remedy,
            )
        if checksum_file(path) != checksum:
            raise ShardsError(f"{path} is corrupted (checksum mismatch)", remedy=remedy)
