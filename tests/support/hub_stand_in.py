"""Stand-ins for the Hugging Face hub: a filled cache, and a server on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "jhu-clsp/mmBERT-tiny"


def fill_cache(cache: Path, folder: Path, name: str = NAME, revision: str = "main") -> Path:
    """Put the files of `folder` into a cache as huggingface_hub has it; return the snapshot."""
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / COMMIT
    for place in (snapshot, model / "blobs", model / "refs"):
        place.mkdir(parents=True)
    (model / "refs" / revision).write_text(COMMIT)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = model / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def use_hub(
    monkeypatch: pytest.MonkeyPatch, cache: Path, endpoint: str, *, offline: bool = False
) -> None:
    """Make huggingface_hub use another cache and hub, as its variables do before its import."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # the latter has a copy in older releases
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@dataclass
class Hub:
    """A running server: its address, and the paths that were asked for."""

    endpoint: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve_hub(models: dict[str, Path | int]) -> Iterator[Hub]:
    """Serve models by name at revision `main`: the files of a folder, or an error status."""

    class Handler(_Handler):
        served = models
        asked: ClassVar[list[str]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Hub(f"http://127.0.0.1:{server.server_port}", Handler.asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class AnswersLikeTheHub(BaseHTTPRequestHandler):
    """Sends files and JSON, and logs nothing."""

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        """Send bytes as they are, and other content as JSON; to HEAD the headers alone."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        sent = {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Handler(AnswersLikeTheHub):
    served: ClassVar[dict[str, Path | int]]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].replace("%2F", "/")
        self.asked.append(path)
        api, parts = path.startswith("/api/models/"), path.strip("/").split("/")
        parts = parts[2:] if api else parts
        model = self.served.get("/".join(parts[:2]), 404)
        if isinstance(model, int):
            code = {401: "GatedRepo", 403: "GatedRepo", 404: "RepoNotFound"}.get(model, "")
            return self.send(model, {}, {"X-Error-Code": code})
        what, revision = (*parts[2:4], "main")[:2] if len(parts) > 3 else ("revision", "main")
        if revision not in ("main", COMMIT):
            return self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        files = sorted(file for file in model.rglob("*") if file.is_file())
        if api and what == "tree":
            listed = [
                {
                    "type": "file",
                    "path": f.relative_to(model).as_posix(),
                    "size": f.stat().st_size,
                    "oid": _oid(f),
                }
                for f in files
            ]
            return self.send(200, listed)
        if api:
            siblings = [{"rfilename": f.relative_to(model).as_posix()} for f in files]
            name = "/".join(parts[:2])
            return self.send(200, {"id": name, "sha": COMMIT, "siblings": siblings})
        file = model.joinpath(*parts[4:])
        if not file.is_file():
            return self.send(404, {}, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_oid(file)}"', "X-Repo-Commit": COMMIT}
        content = file.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:  # the rest of an interrupted download
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(206 if start else 200, content[start:], headers)


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
