"""A deletion by filter, of which each call does a part: the ids of a page of what passes."""

from __future__ import annotations

import contextlib

import orjson

from bitsift.checked import DELETE
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.service import SearchService


def has_filter(body: bytes) -> bool:
    """Whether the body of a deletion names a filter. One that is no JSON object is for others to
    refuse.
    """
    if b'"filter"' not in body:
        return False
    with contextlib.suppress(orjson.JSONDecodeError):
        asked = orjson.loads(body)
        return isinstance(asked, dict) and "filter" in asked
    return False


async def selected(service: SearchService, body: bytes) -> tuple[list[str], str | None]:
    """The ids that are to be deleted, and the cursor of those behind them. Raises InvalidRequest,
    and as ``SearchService.page``.
    """
    options = DELETE.by_json(body)
    with contextlib.closing(AnswerBytes(service.memory)) as held:
        page = await service.page(options.page, held)
    return [document.id for document in page.documents], page.cursor


def with_cursor(answer: bytes, cursor: str | None) -> bytes:
    """The JSON of a DeletedPage: the ``answer`` of a writer, which has no cursor."""
    return answer[:-1] + b',"cursor":' + orjson.dumps(cursor) + b"}"
