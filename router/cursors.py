"""Cursors: opaque texts that lead to the next page. Base64 (of URLs, without padding) of

1 byte    of which kind of page, and in which form
n bytes   how far the pages before went
8 bytes   mark of what was asked for: it leads on with the same question only
4 bytes   digest of all before: a cursor that was cut or changed is no cursor
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from enum import IntEnum

from bitsift.errors import InvalidRequest

_MARK_BYTES, _DIGEST_BYTES = 8, 4
_BROKEN = "cursor: this is no cursor of an earlier page: send it unchanged, or leave it out"


class CursorKind(IntEnum):
    """Of what a cursor is, and in which form. A number is never given to another form."""

    LISTING = 3
    SEARCH = 4


def cursor(kind: CursorKind, reached: bytes, asked: bytes) -> str:
    """A cursor for whoever got as far as ``reached`` with the question ``asked``."""
    data = bytes([kind]) + reached + _digest(asked, _MARK_BYTES)
    data += _digest(data, _DIGEST_BYTES)
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def reached(kind: CursorKind, text: str, asked: bytes, what: str) -> bytes:
    """How far the cursor ``text`` got. Raises InvalidRequest; ``what`` names what was asked for."""
    data = b""
    with contextlib.suppress(ValueError):
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body or body[0] != kind or digest != _digest(body, _DIGEST_BYTES):
        raise InvalidRequest(_BROKEN)
    if body[-_MARK_BYTES:] != _digest(asked, _MARK_BYTES):
        raise InvalidRequest(f"cursor: it is of another {what}: send the {what} of the first page")
    return body[1:-_MARK_BYTES]


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()
