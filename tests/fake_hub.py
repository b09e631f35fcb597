"""A hub on a local port that answers huggingface_hub's own client as the real one does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "a" * 40
TOKEN = "hf_letmein"


@dataclass
class Hub:
    """`repositories` are folders by id; `gated` ones want TOKEN. `cut` files break off in the middle, once each;
    `broken` ones answer 500, and with `status` set so does everything, with that.

    `asked` are the paths that were asked for, with their method and range.
    """

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    status: int | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    @property
    def downloaded(self) -> list[str]:
        """Files whose bytes were asked for from the start."""
        return [path.split("/resolve/")[1].partition("/")[2] for method, path, span in self.asked
                if method == "GET" and "/resolve/" in path and not span]  # fmt: skip


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if self.hub.status:
            return self._refuse(self.hub.status, "")
        listing = path.startswith("api/models/")
        repository = "/".join(path.removeprefix("api/models/").split("/")[:2])
        folder = self.hub.repositories.get(repository)
        if folder is None:
            return self._refuse(401, "RepoNotFound")
        revision = path.split("/revision/" if listing else "/resolve/")[-1].split("/")[0]
        if f"/{revision}" in path and revision not in ("main", COMMIT, repository.split("/")[1], "api"):
            return self._refuse(404, "RevisionNotFound")
        if listing:
            return self._list(repository, folder, body)
        if repository in self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(403, "GatedRepo")
        file = folder / path.split("/resolve/")[1].partition("/")[2]
        if file.name in self.hub.broken:
            return self._refuse(500, "")
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        return self._send(file, body)

    def _list(self, repository: str, folder: Path, body: bool) -> None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        siblings = [
            {"rfilename": file.relative_to(folder).as_posix(), "size": file.stat().st_size} for file in files
        ]
        text = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings, "tags": []}).encode()
        self._head(200, len(text), {"Content-Type": "application/json"})
        if body:
            self.wfile.write(text)

    def _send(self, file: Path, body: bool) -> None:
        data, span = file.read_bytes(), self.headers.get("Range")
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if span:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._head(206 if span else 200, len(data) - start, headers)
        if not body:
            return
        name = file.name
        if name in self.hub.cut:
            self.hub.cut.discard(name)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, 0, {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": COMMIT})

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
