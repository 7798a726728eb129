"""A process whose clock jumps by an hour back and forth (libfaketime): what does it notice?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bitsift.errors import BitsiftError
from bitsift.options import SearchOptions
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.shard import Shard
from tests.crash.documents import CALIBRATION, DIMENSION, IDENTITY, upserts, vectors_of
from tests.crash.server import contents
from tests.fakes import FrozenLink, make_description
from tests.writing import written

HOUR_S = 3_600


@contextlib.contextmanager
def clock_set(hours: int) -> Iterator[None]:
    """The clock jumps by ``hours``, and back at the end."""
    offset = Path(os.environ["FAKETIME_TIMESTAMP_FILE"])
    before, ticks = time.time(), time.monotonic()
    offset.write_text(f"{hours:+d}h")
    jumped = time.time() - before
    assert abs(jumped - hours * HOUR_S) < 60, f"the clock jumped by {jumped} s"
    assert time.monotonic() - ticks < 60
    try:
        yield
    finally:
        offset.write_text("+0h")


def run(shard: Shard) -> None:
    vector = vectors_of(["version 0"])[0][:DIMENSION]
    description = make_description(1, CALIBRATION, has_model=False)
    service = SearchService(description, FanOut([LocalLink(shard)]), None)
    frozen = SearchService(description, FanOut([FrozenLink()]), None)
    for version, hours in enumerate((0, 1, -1, 2, -2)):
        with clock_set(hours):
            written(shard, upserts({"a": f"version {version}", f"{version}": "more"}))
            assert shard.document("a").text == f"version {version}"
    with clock_set(-1):
        shard.maintain()
        assert shard.compact()
    assert contents(shard)["a"] == "version 4"
    for hours in (1, -1):
        deadline = Deadline.after(20.0)
        with clock_set(hours):
            assert -21 < deadline.late_s() < 0
        asyncio.run(_search_while_the_clock_jumps(service, frozen, vector, hours))
    print("done")


async def _search_while_the_clock_jumps(
    service: SearchService, frozen: SearchService, vector: object, hours: int
) -> None:
    """A question in time is answered, one that is late is late, whatever the clock says."""
    waiting = asyncio.create_task(frozen.search(SearchOptions(vector=vector, timeout_ms=500.0)))  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    with clock_set(hours):
        answer = await service.search(SearchOptions(vector=vector, timeout_ms=20_000.0))  # type: ignore[arg-type]
        assert not answer.partial
        started = time.monotonic()
        try:
            await waiting
        except BitsiftError as error:
            assert "did not answer" in error.message
        else:
            raise AssertionError("a frozen shard answered")
        assert time.monotonic() - started < 20


if __name__ == "__main__":
    opened = Shard(Path(sys.argv[1]), CALIBRATION, IDENTITY)
    run(opened)
    opened.close()
