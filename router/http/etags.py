"""A document that a caller has already is not sent again: ETag and If-None-Match."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from fastapi import Request, Response

HASHED_BYTES = 64 << 10
"""Bodies over which the tag is made in a thread: it takes 0.1 ms."""
_WEAK = 'W/"{}"'
_KEPT = "no-cache"  # may be kept, if it is asked for anew each time


async def tagged(
    http: Request, body: bytes, version: str | None, include: Sequence[str]
) -> Response:
    """``body``, JSON, with a tag; 304 without it where the caller names that tag.

    The tag names the ``version`` of the document and what of it was asked for; where there is no
    version, it is made from the body. It is a weak one: the same document may be sent compressed or
    not.
    """
    if version is not None:
        tag = _WEAK.format(".".join([version, *include]))
    elif len(body) <= HASHED_BYTES:
        tag = _tag(body)
    else:
        tag = await asyncio.to_thread(_tag, body)
    headers = {"ETag": tag, "Cache-Control": _KEPT}
    if is_named(tag, http.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def is_named(tag: str, header: str) -> bool:
    """Whether an If-None-Match holds ``tag``; weak and strong ones are the same there."""
    named = [one.strip().removeprefix("W/") for one in header.split(",")]
    return named == ["*"] or tag.removeprefix("W/") in named


def _tag(body: bytes) -> str:
    return _WEAK.format(hashlib.blake2b(body, digest_size=12).hexdigest())
