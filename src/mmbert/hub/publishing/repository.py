"""Revisions of a repository on the hub: a commit and a tag each; `main` is the newest."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from mmbert.errors import OutputError
from mmbert.hub.publishing.hub_errors import hub_error
from mmbert.hub.publishing.place import MAIN, Place, is_revision, revision_of
from mmbert.hub.publishing.publication import (
    PUBLICATION_NAME,
    Publication,
    parse_publication,
)

_KEPT = ".gitattributes"
_OF_A_NEW_REPOSITORY = {_KEPT, "README.md"}


class Repository(Place):
    """A model repository on the hub, written through huggingface_hub.

    A revision is one commit, which the hub takes as a whole or not at all, and then a tag of it:
    whoever reads a tag, or `main`, finds a complete model at any time. Commits go to `main`; a
    checkpoint that is older than what `main` has goes to a branch of its own, until it is tagged.
    The token is the library's (`hf auth login`, HF_TOKEN).
    """

    def __init__(self, name: str, *, private: bool = False) -> None:
        from huggingface_hub import HfApi

        self.name, self._private = name, private
        self._api = HfApi()
        self._main: Publication | None = None

    def __str__(self) -> str:
        """Return the name, and where it is."""
        return f"{self.name} on {self._api.endpoint}"

    def __enter__(self) -> Self:
        """Create the repository if there is none."""
        with self._explained():
            self._api.create_repo(self.name, private=self._private, exist_ok=True)
        self.published()
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing: every request was complete."""

    def published(self) -> dict[str, Publication]:
        """Return the tagged revisions; none if there is no repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._explained():
            try:
                refs = self._api.list_repo_refs(self.name)
            except RepositoryNotFoundError:
                return {}
            branches = {one.name: one.target_commit for one in refs.branches}
            tags = {one.name: one.target_commit for one in refs.tags if is_revision(one.name)}
        self._main = self._publication(branches[MAIN]) if MAIN in branches else None
        if self._main is None and MAIN in branches:
            self._refuse_other_files()
        found = {}
        for name in sorted(tags):
            publication = self._publication(tags[name])
            if publication is None:
                raise OutputError(
                    f"revision {name} of {self} was not written by mmbert publish",
                    remedy="give another repository, or delete that tag",
                )
            found[name] = publication
        return found

    def _refuse_other_files(self) -> None:
        """Raise OutputError if `main` has files that publishing would remove."""
        with self._explained():
            there = set(self._api.list_repo_files(self.name, revision=MAIN))
        if others := sorted(there - _OF_A_NEW_REPOSITORY):
            raise OutputError(
                f"{self} holds {others[0]} and was not written by mmbert publish",
                remedy="give the name of a new repository",
            )

    def _publication(self, commit: str) -> Publication | None:
        """Return the publication.json of a commit; None if it has none."""
        from huggingface_hub.errors import EntryNotFoundError

        with self._explained(), tempfile.TemporaryDirectory() as folder:
            try:
                path = self._api.hf_hub_download(
                    self.name, PUBLICATION_NAME, revision=commit, local_dir=folder
                )
            except EntryNotFoundError:
                return None
            content = Path(path).read_bytes()
        return parse_publication(content, f"{PUBLICATION_NAME} of {self} at {commit[:12]}")

    def finish_interrupted(self, name: str, checkpoint: str) -> bool:
        """Tag `main`, if that is the commit of this checkpoint."""
        if self._main is None or self._main.checkpoint != checkpoint:
            return False
        with self._explained():
            self._api.create_tag(self.name, tag=name, revision=self._head(MAIN))
        return True

    def publish(self, name: str, step: int, build: Callable[[Path], Publication]) -> Publication:
        """Build the revision in a temporary folder (see TMPDIR), commit it whole, and tag that."""
        newest = self._main is None or step > self._main.step
        branch = MAIN if newest else f"publishing-{name}"
        with tempfile.TemporaryDirectory(prefix="mmbert-publish-") as temporary:
            folder = Path(temporary) / name
            publication = build(folder)
            with self._explained():
                if not newest:
                    self._api.create_branch(self.name, branch=branch, revision=MAIN, exist_ok=True)
                commit = self._commit(folder, branch, f"{name}: a checkpoint of step {step:,}")
                self._api.create_tag(self.name, tag=name, revision=commit)
                if not newest:
                    self._api.delete_branch(self.name, branch=branch)
        if newest:
            self._main = publication
        return publication

    def _commit(self, folder: Path, branch: str, message: str) -> str:
        """Make the files of `branch` those of `folder`, in a single commit; return its id."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head = self._head(branch)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
        there = self._api.list_repo_files(self.name, revision=branch)
        gone = sorted(set(there) - {*names, _KEPT})
        # Not upload_folder, which may split its files among several commits.
        commit = self._api.create_commit(
            self.name,
            operations=[
                *(CommitOperationDelete(path_in_repo=name) for name in gone),
                *(
                    CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
                    for name, path in zip(names, paths, strict=True)
                ),
            ],
            commit_message=message,
            revision=branch,
            parent_commit=head,
        )
        return str(commit.oid)

    def _head(self, branch: str) -> str:
        refs = self._api.list_repo_refs(self.name)
        return next(one.target_commit for one in refs.branches if one.name == branch)

    def set_main(self) -> str:
        """Return what `main` is: the newest revision was committed there."""
        assert self._main is not None
        return revision_of(self._main.step)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert what the hub answers, and no answer, into an OutputError."""
        try:
            yield
        except OutputError:
            raise
        except Exception as error:  # the library and its transports raise many types
            explained = hub_error(str(self), error)
            if explained is None:
                raise
            raise explained from error
