"""Stand-in for the hub's repositories, on 127.0.0.1: commits, branches, tags, uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.support.hub_stand_in import AnswersLikeTheHub

Files = dict[str, bytes]
_LARGE = (".safetensors", ".onnx", ".onnx_data", ".model")


@dataclass
class HubRepository:
    """A repository: files by commit, commits by branch and tag."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str) -> str:
        """Put a commit of `files` on a branch; return its id."""
        number = f"{len(self.commits)} {branch} {message}"
        oid = hashlib.sha1(number.encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def at(self, revision: str) -> str | None:
        """Return the commit of a branch, tag or id."""
        known = self.branches | self.tags | {oid: oid for oid in self.commits}
        return known.get(revision)

    def files(self, revision: str) -> Files:
        """Return the files of a revision."""
        found = self.at(revision)
        assert found is not None, revision
        return self.commits[found]


@dataclass
class WritableHub:
    """The running hub."""

    endpoint: str = ""
    repositories: dict[str, HubRepository] = field(default_factory=dict)
    uploads: Files = field(default_factory=dict)
    """Large files by SHA-256."""
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    """Authorization headers of the requests that write."""
    fails: Callable[[str], int | None] = lambda request: None
    """Called with `METHOD /path` before a request is answered: an error status, or None."""


@contextmanager
def serve_repositories() -> Iterator[WritableHub]:
    """Serve a hub without repositories."""
    state = WritableHub()

    class Handler(_Handler):
        hub = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(AnswersLikeTheHub, BaseHTTPRequestHandler):
    hub: ClassVar[WritableHub]

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = self.path.split("?")[0]
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command in ("POST", "DELETE"):
            self.hub.tokens.add(self.headers.get("Authorization"))
        status = self.hub.fails(request)
        if status is not None:
            return self.send(status, {"error": "as the test wishes"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path.startswith("/large/"):
            self.hub.uploads[path.removeprefix("/large/")] = body
            return self.send(200, {})
        api = path.startswith("/api/models/")
        parts = [unquote(part) for part in path.removeprefix("/api/models").strip("/").split("/")]
        name = "/".join(parts[:2]).removesuffix(".git")
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.send(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        if not api and "lfs" in parts:
            return self._batch(json.loads(body))
        if not api:
            return self._file(repository, parts[3], "/".join(parts[4:]))
        return self._api(repository, name, parts[2], parts[3:], body)

    def _api(
        self, repository: HubRepository, name: str, what: str, rest: list[str], body: bytes
    ) -> None:
        revision = rest[0] if rest else "main"
        if what == "refs":
            kinds = {"branches": repository.branches, "tags": repository.tags}
            refs = {
                kind: [{"name": n, "ref": n, "targetCommit": oid} for n, oid in found.items()]
                for kind, found in kinds.items()
            }
            return self.send(200, refs | {"converts": []})
        if what == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.send(200, {"files": modes})
        if what == "branch" and self.command == "DELETE":
            del repository.branches[revision]
            return self.send(200, {})
        if what in ("branch", "tag"):
            return self._name(repository, what, revision, json.loads(body))
        commit = repository.at(revision)
        if commit is None:
            return self.send(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
        files = repository.commits[commit]
        if what == "commit":
            lines = [json.loads(one) for one in body.splitlines()]
            return self._commit(repository, name, revision, lines)
        if what == "tree":
            listed = [
                {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                for path, content in files.items()
            ]
            return self.send(200, listed)
        siblings = [{"rfilename": path} for path in files]
        return self.send(200, {"id": name, "sha": commit, "siblings": siblings})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        answer = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            return self.send(409, answer | {"error": "You already created this model repo"})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[name] = repository = HubRepository(private)
        repository.commit("main", {".gitattributes": b"*.onnx filter=lfs\n"}, "initial commit")
        return self.send(200, answer)

    def _name(
        self, repository: HubRepository, what: str, value: str, wanted: dict[str, Any]
    ) -> None:
        branch = what == "branch"
        names = repository.branches if branch else repository.tags
        name = value if branch else wanted["tag"]
        commit = repository.at(wanted.get("startingPoint", "main") if branch else value)
        if name in names or commit is None:
            return self.send(409 if commit else 404, {"error": "Reference already exists"})
        names[name] = commit
        return self.send(200, {})

    def _commit(
        self, repository: HubRepository, name: str, branch: str, lines: list[dict[str, Any]]
    ) -> None:
        header = lines[0]["value"]
        if header.get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
            return self.send(412, {"error": "A commit has happened since."})
        files = dict(repository.files(branch))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            else:
                assert line["key"] == "deletedFile", line["key"]
                del files[value["path"]]
        oid = repository.commit(branch, files, header["summary"])
        url = f"{self.hub.endpoint}/{name}/commit/{oid}"
        return self.send(200, {"commitOid": oid, "commitUrl": url})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            one
            if one["oid"] in self.hub.uploads
            else one | {"actions": {"upload": {"href": f"{self.hub.endpoint}/large/{one['oid']}"}}}
            for one in wanted["objects"]
        ]
        return self.send(200, {"transfer": "basic", "objects": objects})

    def _file(self, repository: HubRepository, revision: str, path: str) -> None:
        commit = repository.at(revision)
        if commit is None:
            return self.send(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
        content = repository.commits[commit].get(path)
        if content is None:
            return self.send(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound"})
        tag = hashlib.sha1(content).hexdigest()
        return self.send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})
