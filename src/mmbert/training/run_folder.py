"""Setup of the run folder: its owner, the resolved recipe, copies for resuming and export."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.tokenizer_description import read_tokenizer_description
from mmbert.data.shards.tokenizer_function import different_part
from mmbert.errors import OutputError, ResumeError, TokenizerError
from mmbert.files import atomic_write, make_folder, sync_tree
from mmbert.ownership import Unowned, take_folder
from mmbert.parallel.host_group import HostGroup
from mmbert.recipe import Recipe, dump_recipe

ORIGIN_NAME = "initial_checkpoint.json"
"""Copy of the initial checkpoint's provenance.json, for the exports of the run."""


@contextlib.contextmanager
def owned_run_folder(
    run_folder: Path, host_group: HostGroup, *, take_over: bool = False
) -> Iterator[Unowned]:
    """Own the run folder in the block: rank 0 takes it, the others write only what it collects.

    Raises:
        OutputError: another process owns the folder, or it cannot be written; on every rank.
    """
    owner = Unowned()

    def take() -> None:
        nonlocal owner
        what = f"the run {run_folder}"
        owner = take_folder(run_folder, what=what, force="--take-over", forced=take_over)

    host_group.raise_on_all_ranks(take if host_group.is_rank_zero else None)
    try:
        yield owner
    finally:
        owner.release()


def set_up_run_folder(
    run_folder: Path, recipe: Recipe, corpus: Corpus, *, resumes: bool = False
) -> None:
    """Write recipe.yaml; copy the tokenizer and the origin of initial weights (rank 0 only).

    `resumes`: whether the run has a checkpoint, so that nothing of the initial one is opened.

    Raises:
        UserError: the folder cannot be written, or belongs to a run with another tokenizer.
    """
    try:
        make_folder(run_folder)
        tokenizer = run_folder / "tokenizer"
        if tokenizer.exists():
            if not same_tokenizer(tokenizer, corpus):
                raise ResumeError(
                    f"{run_folder} belongs to a run with another tokenizer than that of the shards "
                    f"in {corpus.root}",
                    remedy="choose another --output, or the shards that the run started with",
                )
        else:
            partial = run_folder / ".tokenizer.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(corpus.tokenizer_folder, partial)
            sync_tree(partial)
            partial.rename(tokenizer)
        initial = recipe.initial_checkpoint
        if initial is not None and not resumes and (initial / "provenance.json").is_file():
            with atomic_write(run_folder / ORIGIN_NAME) as file:
                file.write((initial / "provenance.json").read_bytes())
        with atomic_write(run_folder / "recipe.yaml") as file:  # syncs the folder as well
            file.write(dump_recipe(recipe).encode())
    except OSError as error:
        raise OutputError(
            f"cannot write to {run_folder}: {error.strerror}", remedy="choose another --output"
        ) from error


def variant_of(run_folder: Path) -> str | None:
    """Return the name of the variant whose run folder (RUN/variants/NAME) this is, or None."""
    path = run_folder.resolve()
    return path.name if path.parent.name == "variants" else None


def same_tokenizer(folder: Path, corpus: Corpus) -> bool:
    """Return whether the run's copy is the corpus' tokenizer, or does the same."""
    found = read_tokenizer_description(folder)
    if found.fingerprint == corpus.tokenizer.fingerprint:
        return True
    try:
        part = different_part(
            folder, found.special_ids, corpus.tokenizer_folder, corpus.tokenizer.special_ids
        )
    except TokenizerError:
        return False
    return part is None and found.vocabulary_size == corpus.tokenizer.vocabulary_size
