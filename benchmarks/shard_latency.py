"""How long a real shard actor takes to answer, call by call: what benchmarks/fan_out.py draws from.

    python -m benchmarks.shard_latency [--rows 300000] [--dim 1024] [--realtime]

One shard behind Ray on this machine, exact searches, called as the router calls it. Every sample is
kept, in microseconds, in benchmarks/results/shard_latency.json:

    search_N        N queries in one call, one call at a time
    search_loaded   one query, while three other callers ask, each after a pause of 20 ms on average
    search_text     one query right after a text was encoded on the same cores, as a router does
    documents       the documents of two rows
    encode          one text by the default model
    ping            a call of Ray that does nothing

``ray_cpu_us`` is what Ray costs the caller for a call, with so many of them sent at once: in the
thread of the event loop (submitting, and waking the caller), and in all threads of the process.
``search_cpu_us`` is the same of a search on a connection of its own, for which there is no time
left in the shard; so many are sent to it at once, each on another connection.

``--realtime`` (root) puts everything measured before all other processes of the machine, for about
a minute: on a machine that others use, the tail is theirs otherwise, not the shard's. Caches and
the memory's bandwidth are shared nevertheless.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.serving.launch import open_shards
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.options import Mode, SearchOptions
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.location import DEFAULT_MODEL
from bitsift.router.shards.remote import RemoteLink
from bitsift.router.shards.search_channel import NoChannel, SearchChannel
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.types import Candidates, Query, Read
from bitsift.shard_worker.wire.search import pack_queries

RESULT = Path(__file__).with_name("results") / "shard_latency.json"
ROWS_DEFAULT, DIMENSION_DEFAULT = 300_000, 1_024
CALLS = 3_000
CALLS_LOADED = 600
CALLS_OF_BATCHES = {4: 150, 16: 60, 64: 30}
TEXTS = 300
OTHER_CALLERS, PAUSE_S = 3, 0.02
WARM_UP = 20
TIMEOUT_S = 30.0
FAN_OUTS = (1, 10, 100, 1_000)
"""Calls that are sent at once where Ray's cost is measured."""
CONNECTED = (1, 10, 50)
"""The same of searches; a shard takes 64 connections."""
Call = Callable[[], Awaitable[object]]


async def timed(call: Call, calls: int) -> list[float]:
    """Seconds of each of ``calls``, one after the other, after some that are not counted."""
    seconds = []
    for turn in range(WARM_UP + calls):
        started = time.perf_counter()
        await call()
        if turn >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    return seconds


class Asking:
    """Calls to one shard, each with the next of some vectors."""

    def __init__(self, actor: Any, units: Sequence[Any], texts: Sequence[str]) -> None:
        self._actor = actor
        self._link = RemoteLink(0, actor)
        self._units = itertools.cycle(units)
        self._texts = itertools.cycle(texts)
        self._encoder = Encoder.load(DEFAULT_MODEL)

    async def search(self, queries: int = 1) -> Candidates:
        asked = [
            Query(
                SearchOptions(vector=next(self._units), mode=Mode.EXACT),
                0,
                Deadline.after(TIMEOUT_S),
            )
            for _ in range(queries)
        ]
        found = await self._link.search(asked, TIMEOUT_S)
        for one in found:
            if not isinstance(one, Candidates):
                raise one
        first = found[0]
        assert isinstance(first, Candidates), first
        return first

    async def read(self, found: Candidates) -> None:
        rows = [int(row) for row in found.rows[:2]]
        await self._link.documents([Read(found.origin, rows, deadline=Deadline.after(TIMEOUT_S))])

    async def encode(self) -> None:
        await asyncio.to_thread(self._encoder.encode_queries, [next(self._texts)])

    async def channels(self, count: int) -> list[SearchChannel]:
        """Connections, all of them open."""
        channels = [RemoteLink(0, self._actor)._channel for _ in range(count)]
        found = [channel for channel in channels if channel is not None]
        while not all([await _is_open(channel) for channel in found]):
            await asyncio.sleep(0.1)
        return found

    async def ping(self) -> None:
        await self._actor.cancel.remote("nothing", [])

    async def pings(self, count: int) -> None:
        await asyncio.gather(*[self._actor.cancel.remote("nothing", []) for _ in range(count)])


async def _is_open(channel: SearchChannel) -> bool:
    with contextlib.suppress(NoChannel):
        await channel.search("first", _without_time())
        return True
    return False


def _without_time() -> bytes:
    """A search of a usual size that the shard need not make."""
    vector = np.ones(DIMENSION_DEFAULT, np.float32)
    return pack_queries([Query(SearchOptions(vector=vector), 0, Deadline.after(-1.0))])


async def measure(asking: Asking) -> dict[str, Any]:
    samples = {"search_1": await timed(asking.search, CALLS)}
    samples["search_loaded"] = await _loaded(asking)
    samples["search_text"] = await _after_texts(asking)
    for queries, calls in CALLS_OF_BATCHES.items():
        batch = timed(lambda queries=queries: asking.search(queries), calls)  # type: ignore[misc]
        samples[f"search_{queries}"] = await batch
    found = await asking.search()
    samples["documents"] = await timed(lambda: asking.read(found), CALLS)
    samples["encode"] = await timed(asking.encode, TEXTS)
    samples["ping"] = await timed(asking.ping, CALLS)
    ray = {str(n): await _cpu(lambda n=n: asking.pings(n), n) for n in FAN_OUTS}  # type: ignore[misc]
    searches = {str(count): await _search_cpu(asking, count) for count in CONNECTED}
    return {
        "ray_cpu_us": ray,
        "search_cpu_us": searches,
        "p50_p99_us": {
            name: [round(float(q) * 1e6) for q in np.percentile(seconds, [50, 99])]
            for name, seconds in samples.items()
        },
        "samples_us": {
            name: [round(one * 1e6) for one in seconds] for name, seconds in samples.items()
        },
    }


async def _loaded(asking: Asking) -> list[float]:
    pauses = random.Random(7)

    async def over_and_over() -> None:
        while True:
            await asyncio.sleep(pauses.expovariate(1 / PAUSE_S))
            await asking.search()

    others = [asyncio.create_task(over_and_over()) for _ in range(OTHER_CALLERS)]
    try:
        return await timed(asking.search, CALLS_LOADED)
    finally:
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _after_texts(asking: Asking) -> list[float]:
    seconds = []
    for _ in range(TEXTS):
        await asking.encode()
        started = time.perf_counter()
        await asking.search()
        seconds.append(time.perf_counter() - started)
    return seconds


async def _search_cpu(asking: Asking, count: int) -> dict[str, float]:
    channels, frame = await asking.channels(count), _without_time()

    async def all_at_once() -> None:
        await asyncio.gather(*[channel.search("one", frame) for channel in channels])

    try:
        return await _cpu(all_at_once, count)
    finally:
        for channel in channels:
            channel.close()


async def _cpu(call: Call, count: int) -> dict[str, float]:
    """Microseconds of one of the ``count`` calls that ``call`` sends at once."""
    rounds = max(5, CALLS // count)
    await call()
    thread_s, process_s = time.thread_time(), time.process_time()
    for _ in range(rounds):
        await call()
    calls = rounds * count
    return {
        "event_loop": round((time.thread_time() - thread_s) / calls * 1e6, 1),
        "process": round((time.process_time() - process_s) / calls * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS_DEFAULT)
    parser.add_argument("--dim", type=int, default=DIMENSION_DEFAULT)
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args()
    spec = SyntheticSpec(options.rows, options.dim)
    with tempfile.TemporaryDirectory(prefix="bitsift-shard-latency-") as folder:
        index = Path(folder) / "index"
        manifest = write_index(index, spec, texts=glosses(1_000))
        units = manifest.calibration.units(synthetic_queries(spec, 500))
        if options.realtime:  # Ray's processes inherit it
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        with (
            ray_cluster(None),
            open_shards(index, manifest) as (actor,),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,  # as Ray's actors have
        ):
            found = runner.run(measure(Asking(actor, list(units), glosses(TEXTS))))
    facts = {"rows": options.rows, "dimension": options.dim, "realtime": options.realtime}
    result = facts | found
    write_result(RESULT, result)
    print(json.dumps({key: value for key, value in result.items() if key != "samples_us"}))


if __name__ == "__main__":
    main()
