"""A document that a caller has already is not sent again (ETag, If-None-Match), and one that was
written meanwhile is not written over (If-Match).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response

from bitsift.errors import Conflict, InvalidRequest, PreconditionFailed
from bitsift.router.http.documents_schema import VERSION_DIGITS_MAX
from bitsift.write_status import WriteStatus

HASHED_BYTES = 64 << 10
"""Bodies over which the tag is made in a thread: it takes 0.1 ms."""
_WEAK = 'W/"{}"'
_VERSION = re.compile(rf'(?:W/)?"([0-9]{{1,{VERSION_DIGITS_MAX}}})(?:\.vector)?"')
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


def condition_of(if_version: str | None, if_match: str | None) -> str | None:
    """The version that a document must have, by a parameter or by the header If-Match. Raises
    InvalidRequest.
    """
    if if_match is None:
        return if_version
    if if_version is not None:
        raise InvalidRequest("if_version and If-Match exclude each other")
    named = _VERSION.fullmatch(if_match.strip())
    if named is None:
        raise InvalidRequest("If-Match: send the ETag of the document as it is, and one alone")
    return named[1]


def refuse_conflict(result: dict[str, Any], if_match: str | None) -> None:
    """Raises Conflict, or PreconditionFailed, where ``result`` of a write says so."""
    if result["status"] == WriteStatus.CONFLICT:
        kind = Conflict if if_match is None else PreconditionFailed
        raise kind(result["error"]["detail"])
