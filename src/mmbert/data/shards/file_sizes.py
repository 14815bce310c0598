"""Comparison of the shard files' sizes on disk with their manifests, before a run reads them."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mmbert.data.shards.corpus import Component, Corpus
from mmbert.data.shards.manifest import manifest_files
from mmbert.errors import ShardsError

_THREADS = 16  # network file systems answer many at once


def check_file_sizes(
    corpus: Corpus, sources: Collection[str], context: int, *, rank: int = 0, ranks: int = 1
) -> None:
    """Compare this rank's share of the components of `sources`; opens no file.

    Args:
        context: the run's longest; the piece indexes of others are not read.

    Raises:
        ShardsError: names the first file that is missing or has another size, and counts the rest.
    """
    components = [component for component in corpus.components if component.source in sources]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(partial(_wrong_files, context), components[rank::ranks]))
    wrong = [problem for problems in found for problem in problems]
    if wrong:
        more = f" (and {len(wrong) - 1:,} more files)" if len(wrong) > 1 else ""
        raise ShardsError(
            f"{wrong[0]}{more}",
            remedy="restore the files from a copy, or remove summary.json from the source's folder "
            "and run the same preprocessing command again, which remakes the source",
        )


def _wrong_files(context: int, component: Component) -> list[str]:
    problems = []
    pieces = component.manifest.train.pieces.items()
    unread = {entry.file for other, entry in pieces if other != context}
    for name, (size, _) in manifest_files(component.manifest).items():
        if name in unread:
            continue
        found = _size_of(component.folder / name)
        if found is None:
            problems.append(f"{component.folder / name} is listed in the manifest but missing")
        elif size is not None and found != size:
            problems.append(
                f"{component.folder / name} has {found:,} bytes, the manifest says {size:,}"
            )
    return problems


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
