"""mmbert-base on 8 to 1,024 GPUs: overrides that fit, and manifests of its 14 sources."""

from dataclasses import dataclass
from pathlib import Path

from mmbert.data.shards.continuation_index import pieces_file_name
from mmbert.data.shards.manifest import (
    FileEntry,
    PiecesEntry,
    Shard,
    ShardFiles,
    TrainSplit,
    write_manifest,
)
from mmbert.planner.languages import published_counts
from mmbert.recipe import Recipe, load_recipe
from tests.support.generated_corpora import manifest_of, write_tokenizer

CONTEXT = 8192
SHARD_TOKENS = 1 << 28
"""The default of preprocessing."""
MEAN_DOCUMENT = 750


@dataclass(frozen=True)
class WideRun:
    """Overrides of mmbert-base for a number of GPUs."""

    gpus: int
    tensor: int
    row_tokens: int
    rows: int
    """In the first phase; eight times as many tokens a step in the others, as in the recipe."""
    later_rows: int
    growth_from: int | None

    @property
    def data_ranks(self) -> int:
        """Number of data ranks, and of data streams."""
        return self.gpus // self.tensor

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides on the command line."""
        growth = "null" if self.growth_from is None else None
        return (
            f"batch.row_tokens={self.row_tokens}",
            f"batch.rows={self.rows}",
            f"batch.quantum={self.data_ranks}",
            f"batch.growth={growth}" if growth else f"batch.growth.from_rows={self.growth_from}",
            f"phases.extension.rows={self.later_rows}",
            f"phases.decay.rows={self.later_rows}",
            f"parallel.tensor={self.tensor}",
        )

    def recipe(self) -> Recipe:
        """Return the recipe with the overrides."""
        return load_recipe("mmbert-base", self.overrides)


RUNS = (
    WideRun(8, 1, 49_152, 96, 768, 8),
    WideRun(64, 1, 24_576, 192, 1536, 64),
    WideRun(256, 1, 9_216, 512, 4096, 256),
    WideRun(1024, 2, 9_216, 512, 4096, None),
    WideRun(1024, 1, 9_216, 1024, 4096, None),
)
"""The last has twice the recipe's batch in the first phase: 4,608 tokens a rank, which the batch
leaves, are less than a document of the longest context."""
WIDEST = RUNS[-1]


def write_base_manifests(root: Path) -> None:
    """Write only the manifests of mmbert-base's sources, with the published tokens by language."""
    write_tokenizer(root)
    languages: dict[str, int] = {}
    counts = published_counts()
    for column in ("decay-all", "ext", "pretrain"):
        for language, tokens in counts[column].items():
            languages[language] = max(tokens, languages.get(language, 0))
    for source in load_recipe("mmbert-base").data.sources:
        if source.sampling == "temperature":
            for language, tokens in languages.items():
                if language != "code":
                    _write(root, source.name, f"{language}_Latn", tokens)
        else:
            assert source.tokens is not None
            _write(root, source.name, "eng_Latn", int(max(source.tokens.values())))


def _write(root: Path, source: str, language: str, tokens: int) -> None:
    folder = root / source / language
    folder.mkdir(parents=True)
    nothing, shards = "0" * 32, list[Shard]()
    for first in range(0, tokens, SHARD_TOKENS):
        own = min(SHARD_TOKENS, tokens - first)
        documents = max(5, own // MEAN_DOCUMENT)
        shards.append(
            Shard(
                name=f"train-{len(shards):05d}",
                documents=documents,
                tokens=own,
                files=ShardFiles(
                    bin=FileEntry(bytes=4 * own, xxh3_128=nothing),
                    idx=FileEntry(bytes=42 + 20 * documents, xxh3_128=nothing),
                ),
            )
        )
    documents = sum(shard.documents for shard in shards)
    pieces = PiecesEntry(
        file=pieces_file_name(CONTEXT), continuations=documents // 50, xxh3_128=nothing
    )
    train = TrainSplit(
        documents=documents,
        tokens=tokens,
        bytes=4 * tokens,
        shards=tuple(shards),
        pieces={CONTEXT: pieces},
    )
    write_manifest(folder, manifest_of(language, train, source=source))
