"""The answer to a job: lines of JSON with its progress, and last its report."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

import orjson

from bitsift.client.received import report_of
from bitsift.errors import BitsiftError, Unavailable

OnProgress = Callable[[int, int], None]
"""Called with what was done so far, and what there is to do as far as that is known."""


def unheard(_: int, __: int) -> None:
    """Nobody is told of progress."""


def followed(lines: Iterable[str], on_progress: OnProgress, server: str) -> dict[str, Any]:
    """The report at the end of ``lines``. Raises the BitsiftError that the job ended with."""
    for text in lines:
        if (report := _heard(text, on_progress, server)) is not None:
            return report
    raise _broken_off(server)


async def followed_async(
    lines: AsyncIterable[str], on_progress: OnProgress, server: str
) -> dict[str, Any]:
    """The same."""
    async for text in lines:
        if (report := _heard(text, on_progress, server)) is not None:
            return report
    raise _broken_off(server)


def _heard(text: str, on_progress: OnProgress, server: str) -> dict[str, Any] | None:
    try:
        line = orjson.loads(text)
        report = report_of(line)
        if report is None:
            on_progress(line["done"], line["total"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        said = f"{server} answered, but not as Bitsift does: {text[:200]!r}"
        raise BitsiftError(said) from error
    return report


def _broken_off(server: str) -> BitsiftError:
    return Unavailable(f"{server} broke off its answer")
