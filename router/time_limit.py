"""Work that ends in time, or is given up with an error that says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from bitsift.errors import DeadlineExceeded


@contextlib.asynccontextmanager
async def limited(
    timeout_s: float, said: Callable[[], str], on_late: Callable[[float], None] | None = None
) -> AsyncIterator[None]:
    """Raises DeadlineExceeded with what is ``said`` then after ``timeout_s``, which ``on_late`` is
    told; a TimeoutError of the work's own is its own.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        if on_late is not None:
            on_late(timeout_s)
        raise DeadlineExceeded(said()) from error
