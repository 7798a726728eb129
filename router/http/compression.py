"""Large answers in gzip or zstd, for callers that take it.

A small one arrives with the first packets anyway (ten, 14 KiB, before the peer has said a word),
and compressing it would take as long as some searches.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANSWER_BYTES_MIN = 16 << 10
COMPRESSING_MAX = 4
"""Answers that are compressed at once; further ones are sent as they are."""
THREAD_BYTES_MIN = 32 << 10
"""Pieces so large are compressed in a thread: others take 0.1 to 0.5 ms."""
GZIP_LEVEL, ZSTD_LEVEL = 4, 3
_KINDS = (
    "application/json",
    "application/problem+json",
    "image/svg+xml",
    "text/",
)
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class Compressor(Protocol):
    """What takes pieces, and at last what it has kept."""

    def compress(self, piece: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


_COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "zstd": lambda: zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(),
    "gzip": lambda: zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW),
}
"""By content coding, the better first."""


def coding_of(accepted: str) -> str | None:
    """The better of the codings that an Accept-Encoding takes; None where it takes none of ours."""
    weights = dict(map(_weight, accepted.lower().split(",")))
    found = [(weights.get(name, weights.get("*", 0.0)), name) for name in _COMPRESSORS]
    best, name = max(found, key=lambda one: one[0])
    return name if best > 0 else None


def _weight(part: str) -> tuple[str, float]:
    name, _, parameter = part.partition(";")
    quality = parameter.strip()
    try:
        return name.strip(), float(quality[2:]) if quality.startswith("q=") else 1.0
    except ValueError:
        return name.strip(), 0.0


class Compression:
    """Compresses answers of ``ANSWER_BYTES_MIN`` or more whose size is known, piece by piece."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "HEAD" or scope["http_version"] == "1.0":
            await self._app(scope, receive, send)  # 1.0 takes no answer of unknown length
            return
        answer = _Answer(scope, self, send)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            answer.end()

    def begin(self) -> bool:
        """Whether one more answer may be compressed; if so, ``end`` follows."""
        if self._running >= COMPRESSING_MAX:
            return False
        self._running += 1
        return True

    def end(self) -> None:
        self._running -= 1


class _Answer:
    """One answer on its way out."""

    def __init__(self, scope: Scope, compression: Compression, send: Send) -> None:
        self._scope = scope
        self._compression = compression
        self._send = send
        self._compressor: Compressor | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = self._started(message)
        elif message["type"] == "http.response.body" and self._compressor is not None:
            body, is_last = message.get("body", b""), not message.get("more_body", False)
            message = {**message, "body": await self._compressed(body, is_last=is_last)}
        await self._send(message)

    def _started(self, message: Message) -> Message:
        if _size_bytes(message) < ANSWER_BYTES_MIN:  # nearly all, which this costs a microsecond
            return message
        headers = MutableHeaders(raw=list(message["headers"]))
        is_text = headers.get("content-type", "").startswith(_KINDS)
        if not is_text or "content-encoding" in headers:
            return message
        headers.add_vary_header("Accept-Encoding")
        coding = coding_of(Headers(scope=self._scope).get("accept-encoding", ""))
        if coding is not None and self._compression.begin():
            self._compressor = _COMPRESSORS[coding]()
            headers["Content-Encoding"] = coding
            del headers["Content-Length"]
        return {**message, "headers": headers.raw}

    async def _compressed(self, body: bytes, *, is_last: bool) -> bytes:
        compressor = self._compressor
        assert compressor is not None

        def work() -> bytes:
            found = compressor.compress(body)
            return found + compressor.flush() if is_last else found

        return await asyncio.to_thread(work) if len(body) >= THREAD_BYTES_MIN else work()

    def end(self) -> None:
        if self._compressor is not None:
            self._compressor = None
            self._compression.end()


def _size_bytes(start: Message) -> int:
    """Of the body, as far as it is known when an answer starts; else 0."""
    for name, value in start.get("headers", ()):
        if name == b"content-length":
            return int(value)
    return 0
