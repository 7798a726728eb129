"""Names calls to a shard's actor, and tells it which of their queries were cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence

from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.logs import name_for

_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count()


@contextlib.contextmanager
def named_call(
    deadlines: Sequence[Deadline], cancel: Callable[[str, list[int]], object]
) -> Iterator[str]:
    """A name for a call whose queries have ``deadlines``; it says for which requests they are.

    While the call lasts, ``cancel`` is called with the name and the places of the queries that
    were cancelled, those of one turn of the event loop together.
    """
    name = name_for(f"{_PROCESS}-{next(_NUMBERS)}", (deadline.request for deadline in deadlines))
    places: list[int] = []
    loop = asyncio.get_running_loop()

    def tell() -> None:
        cancel(name, places.copy())
        places.clear()

    def left(place: int) -> None:
        if not places:
            loop.call_soon(tell)
        places.append(place)

    listeners = [functools.partial(left, place) for place in range(len(deadlines))]
    for deadline, listener in zip(deadlines, listeners, strict=True):
        deadline.on_cancel(listener)
    try:
        yield name
    finally:
        for deadline, listener in zip(deadlines, listeners, strict=True):
            deadline.forget(listener)
