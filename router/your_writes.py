"""Which shards a read is asked of that must see a write, and what of the write each must know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bitsift.errors import InvalidRequest, Unavailable
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.clock import DRIFT_MAX_S, milliseconds_of
from bitsift.write_token import WriteToken, index_mark, read_token

PAUSE_S = 0.02
"""Between two looks for a newer replica table."""


async def shards_that_know(
    token: str, serving: Callable[[], tuple[FanOut, str]], deadline_s: float
) -> tuple[FanOut, WriteToken | None]:
    """The shards to ask, and what they must have applied; None: all of it.

    ``serving`` says the shards that are asked now, and the uuid of their index. Where the write was
    done under a newer table than is known here, this waits for that: a reshard may have ended.
    Raises InvalidRequest for the token of another index or of a time to come, and Unavailable at
    ``deadline_s`` on the monotonic clock.
    """
    written = read_token(token)
    while True:
        shards, uuid = serving()
        if written.index == index_mark(uuid):
            _check(written, len(shards))
            return shards, written
        if not written.term or not shards.epoch:
            raise InvalidRequest("read_your_writes is a token from another index: leave it out")
        if written.term < shards.epoch:  # a reshard copied all that had been acknowledged
            return shards, None
        if time.monotonic() + PAUSE_S > deadline_s:
            raise Unavailable(
                f"the write of read_your_writes was done under the replica table of epoch "
                f"{written.term}; this router still has that of epoch {shards.epoch}"
            )
        await asyncio.sleep(PAUSE_S)


def _check(written: WriteToken, shards: int) -> None:
    """Raises InvalidRequest for what no writer of this index has given."""
    if max(written.reached) >= shards:
        raise InvalidRequest(
            f"read_your_writes names shard {max(written.reached)}, but there are {shards}: send "
            "the token of a write unchanged"
        )
    newest = max(it.version for it in written.reached.values())
    newest_s = milliseconds_of(newest) / 1e3
    if newest_s > time.time() + DRIFT_MAX_S:
        raise InvalidRequest(
            f"read_your_writes is of a write {newest_s - time.time():,.0f} s from now: send the "
            "token of a write unchanged"
        )
