"""What is done to the documents that pass a filter: each call takes the ids of one page."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson

from bitsift.listing import DeleteOptions, Page
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.service import SearchService


def has_filter(body: bytes) -> bool:
    """Whether the body names a filter. One that is no JSON object is for others to refuse."""
    if b'"filter"' not in body:
        return False
    with contextlib.suppress(orjson.JSONDecodeError):
        asked = orjson.loads(body)
        return isinstance(asked, dict) and "filter" in asked
    return False


async def selected(service: SearchService, options: DeleteOptions) -> Page:
    """The ids of what it is done to, and the cursor of those behind them. Raises as
    ``SearchService.page``.
    """
    with contextlib.closing(AnswerBytes(service.memory)) as held:
        return await service.page(options.page, held)


def with_facts(answer: bytes, **facts: Any) -> bytes:
    """The JSON of the ``answer`` of a writer, and ``facts`` behind."""
    return answer[:-1] + b"," + orjson.dumps(facts)[1:]


def counts_of(answer: bytes) -> dict[str, int]:
    """How many documents have which status, by the end of a writer's ``answer``: what comes before
    are up to 10,000 results, which are not read for that.
    """
    tail: dict[str, Any] = orjson.loads(b"{" + answer[answer.rindex(b"],") + 2 :])
    del tail["token"]
    return tail
