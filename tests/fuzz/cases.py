"""What the fuzzer sends: requests that are right, a little wrong, and no requests at all."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from urllib.parse import quote

import zstandard

DIMENSION = 64
PATHS = [
    "/", "/livez", "/readyz", "/v1/index", "/v1/cluster", "/v1/search", "/v1/search?q=a&top_k=3",
    "/v1/search/batch", "/v1/documents/count", "/v1/documents/list", "/metrics",
    "/v1/documents", "/v1/documents?results=errors", "/v1/documents/delete", "/v1/documents/a1",
    "/v1/admin/compact", "/v1/admin/backup", "/v1/admin/verify", "/v1/admin/repair",
    "/v1/documents/a1?read_your_writes=x", "/openapi.json", "/docs", "/static/app.js",
    "/v1/documents/get", "/v1/documents/update", "/v1/indexes", "/v1/indexes/a1",
    "/v1/indexes/a1/search?q=a", "/v1/indexes/a1/documents/list", "/v1/aliases/a1",
    "/v1/documents/file", "/v1/documents/file?name=a.csv", "/v1/documents/file?name=a.json.gz",
    "/static/../shell.py", "/nothing", "//", "/v1/documents/%2e%2e", "/v1/documents/%ff%00",
]  # fmt: skip
METHODS = [
    "GET",
    "POST",
    "DELETE",
    "HEAD",
    "PUT",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "X",
]
PARAMETERS = ["q", "top_k", "mode", "include", "x", "timeout_ms", "read_your_writes", ""]
KINDS = [
    "application/json",
    "application/x-ndjson",
    "application/octet-stream",
    "text/plain",
    "",
    "application/json; charset=x",
]
_HEADERS = [
    b"content-length: 0", b"content-length: 1", b"content-length: 5", b"content-length: 1000000000",
    b"content-length: " + b"9" * 30, b"content-length: x", b"transfer-encoding: chunked",
    b"transfer-encoding: gzip, chunked", b"expect: 100-continue", b"connection: close",
    b"connection: upgrade", b"upgrade: websocket", b"upgrade: h2c", b"content-encoding: gzip",
    b"content-type: \xff", b"x" * 9_000 + b": y", b": y", b" folded", b"a b: c", b"a: \0",
    b"content-type: application/json", b"range: bytes=0-1", b"range: bytes=5-1,-9,x",
    b"if-none-match: *", b"if-modified-since: never", b"accept-encoding: *", b"a: " + b"y" * 70_000,
]  # fmt: skip
_POSTS = [
    "/v1/search", "/v1/search/batch", "/v1/documents", "/v1/documents/delete",
    "/v1/documents/count", "/v1/documents/list", "/v1/documents/get", "/v1/documents/update",
    "/v1/indexes", "/v1/admin/backup",
]  # fmt: skip
_FILTERS: list[object] = [
    {"k": 1}, {"k": {"$in": [1, "a", None]}}, {"$or": [{"k.x": {"$gt": 0.1}}, {"$not": {"k": {}}}]},
    {"k": {"$date": "2026-01-31"}}, {"id": {"$prefix": "a"}}, {"k": {"$all": [1, 0.5]}}, {}, None,
    "k = 1 and not (k.x exists or id in [a1, 'a2'])", "k >= 2026-01-31", "k = '", '{"k": 1}',
]  # fmt: skip
_WAYS: list[dict[str, object]] = [
    {}, {"group_by": "k"}, {"group_by": "k.x", "group_size": 3}, {"like": ["a1", "a2"]},
    {"unlike": ["a3"], "like": ["a4"], "keep_liked": True}, {"exclude": ["a1"], "explain": True},
    {"facets": ["k", "k.x"]}, {"sort": ["k.x:desc", "k"]}, {"cursor": "AAAA"}, {"highlight": True},
    {"min_score": 0.1, "mode": "exhaustive"}, {"include": ["vector"]},
]  # fmt: skip
_LISTINGS: list[dict[str, object]] = [{}, {"facets": ["k"]}, {"sort": ["k:desc"]}, {"limit": 2}]
_CONDITIONS: list[dict[str, object]] = [{}, {}, {"if_absent": True}, {"if_version": "1"}]
_NASTY: list[object] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1e308, -0.0, 0.5, "", " ", "\0", "a",
    "\ud800", "\N{SPIDER WEB}" * 9, "e\u0301", "\u202e", "x" * 9_000, "/", "://", "../..", [], {},
    [[]], [[[[[1]]]]], {"": {}}, [None] * 9, {"id": "a"}, "NaN", [0.0] * DIMENSION, "AAAA",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes to send, in pieces, and how the connection ends.

    ``is_whole``: it is known to be a request, so it must have an answer.
    """

    pieces: tuple[bytes, ...]
    is_whole: bool
    ends_by_reset: bool = False


def cases(seed: int) -> _Cases:
    """An endless row of cases, the same for the same seed."""
    return _Cases(random.Random(seed))


class _Cases:
    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def next(self) -> Case:
        make = self._dice.choices(
            [
                self._good,
                self._wrong_json,
                self._wrong_head,
                self._noise,
                self._truncated,
                self._many,
            ],
            [3, 6, 3, 1, 3, 1],
        )[0]
        return make()

    def _good(self) -> Case:
        """A request as it is meant."""
        path = self._dice.choice(_POSTS[:-1])
        body, coding = self._packed(self._json(self._body(path)))
        return Case((_request("POST", path, body, coding=coding),), is_whole=True)

    def _wrong_json(self) -> Case:
        path = self._dice.choice(_POSTS)
        value = self._body(path)
        for _ in range(self._dice.randint(1, 3)):
            value = self._mutated(value)
        body = self._json(value)
        if self._dice.random() < 0.3:
            body = self._flipped(body)
        kind = self._dice.choice(KINDS) if self._dice.random() < 0.2 else KINDS[0]
        if path == "/v1/documents" and self._dice.random() < 0.4:
            kind = KINDS[1]
            body = b"\n".join(self._flipped(body) for _ in range(self._dice.randint(1, 5)))
        body, coding = self._packed(body)
        if coding and self._dice.random() < 0.5:
            body = self._flipped(body)
        chunked = self._dice.random() < 0.3
        whole = _request("POST", path, body, kind, chunked=chunked, coding=coding)
        return Case(self._pieces(whole), is_whole=True)

    def _wrong_head(self) -> Case:
        dice = self._dice
        method = dice.choice(METHODS)
        path = dice.choice(PATHS)
        if method == "POST" and path in ("/v1/admin/backup",):
            path = "/nothing"
        if dice.random() < 0.3:
            path += "?" + "&".join(
                f"{dice.choice(PARAMETERS)}="
                f"{quote(str(dice.choice(_NASTY)).encode(errors='replace'))[:200]}"
                for _ in range(dice.randint(1, 4))
            )
        lines = [f"{method} {path} HTTP/1.{dice.choice('0119')}".encode(), b"host: localhost"]
        lines += dice.choices(_HEADERS, k=dice.randint(0, 6))
        if dice.random() < 0.2:
            lines.append(bytes(dice.choices(range(256), k=9)))
        return Case(self._pieces(b"\r\n".join(lines) + b"\r\n\r\n"), is_whole=False)

    def _noise(self) -> Case:
        data = bytes(self._dice.choices(range(256), k=self._dice.randint(1, 3_000)))
        return Case(self._pieces(data), is_whole=False)

    def _truncated(self) -> Case:
        whole = (
            self._good().pieces[0] if self._dice.random() < 0.5 else self._wrong_json().pieces[0]
        )
        return Case(
            self._pieces(whole[: self._dice.randrange(len(whole))]),
            is_whole=False,
            ends_by_reset=self._dice.random() < 0.5,
        )

    def _many(self) -> Case:
        """Pipelined, the last of them perhaps broken."""
        parts = [self._good().pieces[0] for _ in range(self._dice.randint(2, 25))]
        if self._dice.random() < 0.3:
            parts.append(self._noise().pieces[0])
        return Case(self._pieces(b"".join(parts)), is_whole=False)

    def _packed(self, body: bytes) -> tuple[bytes, str]:
        """Some bodies are compressed: with their coding."""
        coding = self._dice.choice(["gzip", "zstd", "", "", "", ""])
        if coding == "gzip":
            body = gzip.compress(body)
        elif coding == "zstd":
            body = zstandard.compress(body)
        return body, coding

    def _pieces(self, data: bytes) -> tuple[bytes, ...]:
        if self._dice.random() < 0.7 or len(data) < 2:
            return (data,)
        cuts = sorted(self._dice.randrange(1, len(data)) for _ in range(self._dice.randint(1, 4)))
        return tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))

    def _body(self, path: str) -> object:
        dice = self._dice
        if path == "/v1/search":
            asked: dict[str, object] = dice.choice(
                [{"query": f"text {dice.randrange(99)}"}, {"queries": ["a", "b"]},
                 {"vector": [dice.random() for _ in range(DIMENSION)]}]
            )  # fmt: skip
            asked |= {"top_k": dice.randint(1, 20), "include": ["title"]}
            asked |= dice.choice(_WAYS)
            return asked | ({"filter": dice.choice(_FILTERS)} if dice.random() < 0.5 else {})
        if path == "/v1/search/batch":
            return {"searches": [self._body("/v1/search") for _ in range(dice.randint(0, 4))]}
        if path == "/v1/documents":
            return {"documents": [self._document() for _ in range(dice.randint(0, 5))]}
        if path in ("/v1/documents/count", "/v1/documents/list"):
            listed: dict[str, object] = {"filter": dice.choice(_FILTERS)}
            return listed | dice.choice(_LISTINGS)
        if path == "/v1/documents/get":
            return {"ids": [f"a{dice.randrange(50)}" for _ in range(dice.randint(0, 5))]}
        if path == "/v1/documents/update":
            changed: dict[str, object] = {"metadata": dice.choice([{"k": 1}, {"k": None}, {}])}
            if dice.random() < 0.5:
                return changed | {"ids": ["a1", "a2"]}
            return changed | {"filter": dice.choice(_FILTERS), "limit": 3}
        if path == "/v1/indexes":
            return {"name": f"i{dice.randrange(9)}", "dimensions": DIMENSION}
        if path == "/v1/documents/delete" and dice.random() < 0.1:
            return {"filter": dice.choice(_FILTERS), "limit": 3}
        if path == "/v1/documents/delete":
            return {"ids": [f"a{dice.randrange(50)}" for _ in range(dice.randint(0, 5))]}
        return {"dest": dice.choice(["", "relative", ".", "nothing://x", "ftp://127.0.0.1:9/x"])}

    def _document(self) -> dict[str, object]:
        dice = self._dice
        document: dict[str, object] = {
            "id": f"a{dice.randrange(50)}",
            "text": "b" * dice.randrange(99),
        }
        document |= dice.choice(_CONDITIONS)
        if dice.random() < 0.5:
            document |= {"title": "t", "metadata": {"k": [1, None, {"x": 0.5}]}}
        if dice.random() < 0.5:
            document["vector"] = [dice.random() for _ in range(DIMENSION)]
        return document

    def _mutated(self, value: object) -> object:
        dice = self._dice
        if dice.random() < 0.15 or not value:
            return dice.choice(_NASTY)
        if isinstance(value, dict):
            key = dice.choice(list(value))
            if key == "dest":  # nothing of this machine is written to
                return {key: dice.choice([v for v in _NASTY if not isinstance(v, str)])}
            changed = dict(value)
            if dice.random() < 0.2:
                changed[str(dice.choice(["x", "ids", "query", "\ud800", ""]))] = dice.choice(_NASTY)
            elif dice.random() < 0.1:
                del changed[key]
            else:
                changed[key] = self._mutated(value[key])
            return changed
        if isinstance(value, list):
            place = dice.randrange(len(value))
            return [*value[:place], self._mutated(value[place]), *value[place + 1 :]]
        return dice.choice(_NASTY)

    def _json(self, value: object) -> bytes:
        text = json.dumps(value, ensure_ascii=self._dice.random() < 0.5)
        return text.encode(errors="surrogatepass")

    def _flipped(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(min(len(changed), self._dice.randint(1, 3))):
            changed[self._dice.randrange(len(changed))] = self._dice.randrange(256)
        if b'"dest"' in data:  # it may have become a path
            return data[: self._dice.randrange(len(data))]
        return bytes(changed)


def _request(
    method: str,
    path: str,
    body: bytes,
    kind: str = KINDS[0],
    chunked: bool = False,
    coding: str = "",
) -> bytes:
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    if coding:
        framing += b"\r\ncontent-encoding: " + coding.encode()
    if chunked:
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return b"%b %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: %b\r\n%b\r\n\r\n%b" % (
        method.encode(),
        path.encode(),
        kind.encode(),
        framing,
        body,
    )
