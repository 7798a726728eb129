"""The body of a request as a whole, within limits of size, time and RAM."""

from __future__ import annotations

import asyncio
import codecs
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from bitsift.errors import InvalidRequest, RequestTooLarge
from bitsift.router.admission import Held

BODY_TIMEOUT_S = 60.0
RAM_PER_BYTE = 8
"""What a byte of a body or a line takes on its way, measured in
tests/router/http/test_request_ram.py: with what is parsed of it; of documents the router's
copies, the object store's, the writer's, and there up to 4 for each character of a text."""
_JOINED_BYTES_MAX = 1 << 20
"""What is copied in the event loop; more of it in a thread."""


async def whole_body(receive: Receive, announced: str, bytes_max: int, held: Held) -> bytes:
    """Read it to its end; ``announced`` is the header content-length.

    A byte order mark before it is left out. Raises RequestTooLarge, Overloaded, InvalidRequest for
    a body in UTF-16, HTTPException (408) and ClientDisconnect. Only received bytes are ``held``: a
    sender that announces much and sends little takes little.
    """
    told = announced_bytes(announced)
    _check_size(told, bytes_max)
    held.admission.check(RAM_PER_BYTE * told)
    chunks, size, more = list[bytes](), 0, True
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                more = message.get("more_body", False)
                size += len(chunks[-1])
                _check_size(size, bytes_max)
                held.resize(RAM_PER_BYTE * size)
    except TimeoutError as error:
        late = f"the body took over {BODY_TIMEOUT_S:.0f} s"
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, late) from error
    if len(chunks) == 1 or size <= _JOINED_BYTES_MAX:
        return _without_mark(b"".join(chunks))  # the one chunk itself
    return await asyncio.to_thread(lambda: _without_mark(b"".join(chunks)))


def announced_bytes(announced: str) -> int:
    """What the header content-length says; 0 where it says nothing that is a number."""
    return int(announced) if announced.isascii() and announced.isdigit() else 0


def _without_mark(body: bytes) -> bytes:
    """Raises InvalidRequest where the mark is that of UTF-16: JSON is in UTF-8 (RFC 8259)."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidRequest("body: it is in UTF-16; send it in UTF-8")
    return body.removeprefix(codecs.BOM_UTF8)


def _check_size(size_bytes: int, bytes_max: int) -> None:
    if size_bytes > bytes_max:
        raise RequestTooLarge(f"the body is larger than {bytes_max:,} bytes; send less per request")
