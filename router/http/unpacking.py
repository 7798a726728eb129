"""Bodies of requests in gzip or zstd: unpacked while they arrive, and read as any other body.

Each piece is bounded, so what reads a body counts it as it grows, and refuses it at the limit that
holds for bodies that are not compressed: a bomb costs what such a body does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Message, Receive, Scope
from zstandard import ZstdError, get_frame_parameters

from bitsift.errors import InvalidRequest, UnsupportedMediaType
from bitsift.router.admission import Held
from bitsift.router.http.gate import values_of
from bitsift.router.http.problems import problem
from bitsift.router.unpackers import BROKEN, Gzip, Unpacker, zstandard

PIECE_BYTES = 64 << 10
"""The most that is unpacked in one turn of the event loop: 0.1 to 0.3 ms."""
RAM_BYTES_MAX = 64 << 20
"""What all of them may take to be unpacked, beside what is unpacked."""
WINDOW_BYTES_MAX = 8 << 20
"""How far back a zstd stream may look: what RFC 9659 grants the coding, and ``zstd -19`` takes."""
PADDING_BYTES_MAX = 256 << 10
"""By how much a stream may be longer than twice what it gives: empty blocks have no end."""
_UNPACKER_BYTES = 256 << 10
"""Of an unpacker without its window: blocks of zstd have 128 KiB."""
_FRAME_HEAD_BYTES = 18
"""The longest of zstd."""
_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
_ACCEPTED = {"Accept-Encoding": "gzip, zstd"}


class UnsupportedCoding(Exception):
    """The body has a coding that is not unpacked, or several."""

    def answer(self) -> Response:
        """With the header that says which codings there are, as RFC 9110 (15.5.16) wants it."""
        error = UnsupportedMediaType(str(self))
        kind = UnsupportedMediaType.__name__
        return problem(error.status, kind, error.title, error.message, error.outcome, _ACCEPTED)


def coding_of(scope: Scope) -> str | None:
    """The coding of a body: "gzip" or "zstd", or None. Raises UnsupportedCoding."""
    values = values_of(scope["headers"], b"content-encoding")
    if not values:
        return None
    named = ", ".join(values).strip().lower()
    if named == "identity":
        return None
    coding = _CODINGS.get(named)
    if coding is None:
        raise UnsupportedCoding(
            f"content-encoding {named[:40]!r} is not supported: send the body in gzip or zstd, "
            "once, or uncompressed"
        )
    return coding


class Unpacked:
    """``receive`` of a body in ``coding``, unpacked. What it takes of RAM is ``held``."""

    def __init__(self, receive: Receive, coding: str, held: Held) -> None:
        self._receive = receive
        self._coding = coding
        self._held = held
        self._unpacker: Unpacker | None = None
        self._waiting = b""  # what has come and was not given to the unpacker
        self._more = True
        self._packed = self._unpacked = 0
        self._ended = False

    async def __call__(self) -> Message:
        """The next piece. Raises InvalidRequest where the stream is damaged, cut off or no end of
        it comes, Overloaded where it has no room.
        """
        if self._ended:
            return await self._receive()
        while self._needs_input and self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._take(message)
        await asyncio.sleep(0)
        unpacker = self._unpacker = self._unpacker or self._begun()
        piece = self._next(unpacker)
        if unpacker.eof and self._more and (gone := await self._gone()):
            return gone
        if unpacker.eof:
            self._ended, self._unpacker = True, None
            self._held.resize(0)
        return {"type": "http.request", "body": piece, "more_body": not self._ended}

    @property
    def _needs_input(self) -> bool:
        if self._unpacker is None:
            return len(self._waiting) < _FRAME_HEAD_BYTES
        return not self._waiting and self._unpacker.needs_input

    def _take(self, message: Message) -> None:
        body = message.get("body", b"")
        self._packed += len(body)
        self._waiting += body
        self._more = message.get("more_body", False)

    def _next(self, unpacker: Unpacker) -> bytes:
        """What is unpacked of what has come, ``PIECE_BYTES`` at most."""
        data, self._waiting = self._waiting, b""
        try:
            piece = unpacker.decompress(data, PIECE_BYTES)
        except BROKEN as error:
            raise self._wrong(f"is damaged, or looks back too far ({error})") from error
        self._unpacked += len(piece)
        if unpacker.unused_data:
            raise self._wrong("goes on behind its end: send one stream")
        if not self._more and not unpacker.eof and unpacker.needs_input:
            raise self._wrong("ends before its data does")
        if self._packed > 2 * self._unpacked + PADDING_BYTES_MAX:
            raise self._wrong("has more padding than data")
        return piece

    async def _gone(self) -> Message | None:
        """Reads the end of the body, behind that of the stream; the message of a caller that has
        gone instead.
        """
        while self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._more = message.get("more_body", False)
            if message.get("body"):
                raise self._wrong("goes on behind its end: send one stream")
        return None

    def _begun(self) -> Unpacker:
        """An unpacker for what is ``_waiting``, for which there is room. Raises Overloaded."""
        window = 0
        if self._coding == "zstd":
            with suppress(ZstdError):  # else the unpacker says what is wrong
                window = get_frame_parameters(self._waiting).window_size
        if window > WINDOW_BYTES_MAX:
            raise self._wrong(f"looks back over {WINDOW_BYTES_MAX >> 20} MiB")
        self._held.resize(_UNPACKER_BYTES + window)
        return zstandard(WINDOW_BYTES_MAX) if self._coding == "zstd" else Gzip()

    def _wrong(self, said: str) -> InvalidRequest:
        return InvalidRequest(f"body: the {self._coding} stream {said}")
