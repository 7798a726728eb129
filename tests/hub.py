"""A hub of models on loopback, which huggingface_hub's own client asks: HF_ENDPOINT names it.

It has each file of one repository in one state or several, as the real one answers for it: the
commit and the ETag of a file in headers, an error's name in another.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<state>[^/]+)/(?P<path>.+)")
_FACTS = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+?)(/revision/(?P<state>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/tree/(?P<state>[^/]+)(?P<path>/.+)?")


@dataclass
class Hub:
    """What it has: folders by commit, and the commit that ``main`` is now."""

    repository: str
    commits: Mapping[str, Path]
    main: str
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def environment(self, cache: Path) -> dict[str, str]:
        """With which a process asks it, and keeps what it has in ``cache``."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """``hub`` with its address, until the end."""

    class Handler(_Handler):
        of = hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class _Handler(http.server.BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        self.of.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        found = _FILE.fullmatch(path) or _TREE.fullmatch(path) or _FACTS.fullmatch(path)
        if found is None or found["repository"] != self.of.repository:
            return self._lacks("RepoNotFound", {}, is_head=is_head)
        commit = self.of.main if found["state"] in (None, "main") else found["state"]
        if commit not in self.of.commits:
            return self._lacks("RevisionNotFound", {}, is_head=is_head)
        headers = {"X-Repo-Commit": commit}
        if found.re is _FACTS:
            facts: object = {"id": found["repository"], "sha": commit, "tags": [], "private": False}
            return self._say(200, json.dumps(facts).encode(), headers, is_head=is_head)
        folder = self.of.commits[commit]
        if found.re is _TREE and not found["path"]:
            files = [path for path in folder.rglob("*") if path.is_file()]
            tree = [
                {"type": "file", "path": str(path.relative_to(folder)), "oid": "0", "size": 1}
                for path in files
            ]
            return self._say(200, json.dumps(tree).encode(), headers, is_head=is_head)
        wanted = folder / found["path"].lstrip("/")
        if not wanted.is_file():
            return self._lacks("EntryNotFound", headers, is_head=is_head)
        data = wanted.read_bytes()
        headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._say(200, data, headers, is_head=is_head)

    def _lacks(self, what: str, headers: Mapping[str, str], *, is_head: bool) -> None:
        self._say(404, b"", {**headers, "X-Error-Code": what}, is_head=is_head)

    def _say(self, status: int, data: bytes, headers: Mapping[str, str], *, is_head: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not is_head:
            self.wfile.write(data)
