"""A hub on loopback, for tests: the addresses, headers and errors of huggingface.co, and its bad days.

https://huggingface.co/docs/hub/api; headers and error codes as `huggingface_hub` reads them (its errors.py and
file_download.py).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
LARGE = ".safetensors", ".bin"  # what the hub keeps in its large-file store, and redirects to


@dataclass
class Repository:
    """files: path -> content. revisions: branch, tag or refs/pr/N -> commit. token: who may read it; None = all."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    token: str | None = None
    gated: bool = False


class Hub(ThreadingHTTPServer):
    """Remembers what it was asked, and misbehaves on request.

    asked: "METHOD path" of every request. tokens: the tokens that came with them. status: end of a path -> the status
    that it answers. cut: end of a path -> after so many bytes the connection is cut, once for each number. stalled: set
    when a body stopped at `stall`, a number of bytes after which nothing more comes until `release` is set. ranges: the
    values of the Range headers. page: what answers in the place of the hub, if it is not empty.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.status: dict[str, int] = {}
        self.cut: dict[str, list[int]] = {}
        self.stall: dict[str, int] = {}
        self.stalled, self.release = threading.Event(), threading.Event()
        self.ranges: list[str] = []
        self.page = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> list[str]:
        """The files whose content was asked for, without what was asked about them before."""
        got = {path.split("/")[-1] for path in self.asked if path.startswith("GET ") and "/api/" not in path}
        return sorted(got)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.server.tokens.add(token)
        if self.server.page:
            return self.send_content("text/html", self.server.page)
        for end, status in self.server.status.items():
            if path.endswith(end):
                return self.error(status)
        api = path.startswith("/api/models/")
        rest = path.removeprefix("/api/models/").removeprefix("/store").lstrip("/")
        for separator in ("/revision/", "/tree/", "/resolve/"):
            name, found, tail = rest.partition(separator)
            if found:
                return self.of_repository(name, separator, tail, token, stored=path.startswith("/store/"))
        return self.error(404, "RepoNotFound" if api else None)

    def of_repository(self, name: str, separator: str, tail: str, token: str | None, *, stored: bool) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.error(401, "RepoNotFound")
        if repository.token is not None and token != repository.token and not stored:
            if repository.gated:
                return self.error(403, "GatedRepo")
            if token is not None:  # what the hub answers to a token that it does not know
                return self.error(401, message="Invalid credentials in Authorization header")
            return self.error(401, "RepoNotFound")
        known = {**repository.revisions, **{commit: commit for commit in repository.revisions.values()}}
        revision = next((one for one in sorted(known, key=len, reverse=True) if f"{tail}/".startswith(f"{one}/")), None)
        if revision is None:
            return self.error(404, "RevisionNotFound")
        commit, file = known[revision], tail[len(revision) :].lstrip("/")
        if separator == "/revision/":
            siblings = [{"rfilename": path} for path in repository.files]
            return self.send_json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})
        if separator == "/tree/":
            return self.send_json([described(path, content) for path, content in repository.files.items()])
        if file not in repository.files:
            return self.error(404, "EntryNotFound", commit=commit)
        return self.send_file(name, commit, file, repository.files[file], stored)

    def error(self, status: int, code: str | None = None, *, message: str = "", commit: str | None = None) -> None:
        self.send_response(status)
        for header, value in (("X-Error-Code", code), ("X-Error-Message", message), ("X-Repo-Commit", commit)):
            if value:
                self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_json(self, value: object) -> None:
        self.send_content("application/json", json.dumps(value).encode())

    def send_content(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, name: str, commit: str, file: str, content: bytes, stored: bool) -> None:
        tag = '"' + described(file, content)["oid"] + '"'
        large = file.endswith(LARGE)
        if large and not stored:
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/store/{name}/resolve/{commit}/{file}")
            for header, value in (("X-Repo-Commit", commit), ("X-Linked-Etag", tag), ("X-Linked-Size", len(content))):
                self.send_header(header, str(value))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", tag)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self.send_body(file, content[start:])

    def send_body(self, file: str, body: bytes) -> None:
        cuts = self.server.cut.get(file)
        if cuts:
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
            return
        if file in self.server.stall:
            self.wfile.write(body[: self.server.stall[file]])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.release.wait(30)
            body = body[self.server.stall[file] :]
        with suppress(OSError):
            self.wfile.write(body)


def described(path: str, content: bytes) -> dict:
    """One line of the tree: git's own hash for small files, sha256 beside it for large ones."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    line = {"type": "file", "path": path, "size": len(content), "oid": git}
    if path.endswith(LARGE):
        line["oid"] = hashlib.sha256(content).hexdigest()
        line["lfs"] = {"oid": line["oid"], "size": len(content), "pointerSize": 130}
    return line


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        hub.shutdown()
        hub.server_close()
        thread.join()
