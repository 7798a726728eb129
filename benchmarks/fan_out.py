"""How far one router's fan-out reaches: 10 to 1,000 shards, simulated from measured latencies.

    python -m benchmarks.fan_out

The router's code is the product's own, with its frames: SearchService, FanOut, Batcher, RemoteLink,
merge. Shards are simulated: they take as long as a real one took (shard_latency.json), on a clock
that jumps (simulated_loop.py), so that a thousand of them need no thousand processes.

    waiting     the shards' times alone: nothing that the router computes takes time; ``hedged``
                with two replicas of each shard
    one_level   with the router's processor time, and what its event loop takes to send each call
    two_levels  the same over middle routers of some shards each, all on machines of their own: one
                of them is simulated first, then the router above, over the times of the first
    busy        one_level and two_levels with 32 clients, whose questions share calls

A question has one vector and asks for ten hits with their texts. ``search_loaded`` draws from the
times of a shard that others ask as well; ``search_loaded_stalls`` from the same, of which one in a
thousand was made 200 ms longer, as where a process is stopped for a moment. The result goes to
benchmarks/results/fan_out.json, with a plot.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulated_cluster import (
    BATCHES,
    DIMENSION,
    SEED,
    Cluster,
    Join,
    Measured,
    Samples,
    ask,
    first_replica,
    hedged,
)
from benchmarks.simulated_loop import simulate, simulated_loop
from benchmarks.simulated_shards import Traffic
from benchmarks.two_levels import MiddleRouter
from bitsift.cluster.bench.machine import write_result
from bitsift.options import SearchOptions
from bitsift.router.collector import settle
from bitsift.router.service import asked_of_each
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.types import Candidates, Read
from bitsift.shard_worker.wire.search import pack_queries, pack_reads, unpack_candidates

RESULT = Path(__file__).with_name("results") / "fan_out.json"
SIZES = (10, 20, 30, 50, 100, 300, 1_000)
LARGE_SIZES = (100, 1_000)
CLIENTS = 32
CALLS_PER_RUN, QUERIES_MIN, QUERIES_MAX = 8_000, 30, 400
"""So many calls to shards make a run; that is between so few and so many questions."""
TAIL_CALLS, TAIL_QUERIES_MAX = 60_000, 200
"""The same for the runs whose p99 the bar is about."""
MIDDLE_CALLS = {1: 200, 4: 10, 16: 10, 64: 5}
"""Calls to a middle router by the number of their queries."""
COMPOSED = 20_000
TAILS = ("search_1", "search_loaded", "search_loaded_stalls")
STALLS_SHARE, STALL_S = 1e-3, 0.2
HEDGED_REPLICAS, HEDGED_WARM_UP = 2, 30
"""So many questions tell the router how long its replicas take."""


def cluster(measured: Measured, shards: int) -> Cluster:
    return Cluster(shards, measured.samples, measured.call_cost(shards))


def questions_of(shards: int) -> int:
    return min(QUERIES_MAX, max(QUERIES_MIN, CALLS_PER_RUN // shards))


def middles_of(shards: int) -> int:
    """How many middle routers share ``shards``: about as many as each has shards."""
    return round(math.sqrt(shards))


def waiting(measured: Measured, shards: int, one_query: str, join: Join) -> dict[str, Any]:
    """The bar: the p99 over all shards over that of one alone, all shards alike.

    Of the first round over a search; and of whole answers over a search and a read of documents.
    """
    replicas, warm_up = (HEDGED_REPLICAS, HEDGED_WARM_UP) if join is hedged else (1, 0)
    asked = dataclasses.replace(
        cluster(measured, shards), one_query=one_query, join=join, replicas=replicas
    )
    count = min(TAIL_QUERIES_MAX, TAIL_CALLS // shards)
    figures = simulate(ask(asked, count, warm_up=warm_up)).figures()
    random = np.random.default_rng(SEED)
    search, read = (
        random.choice(measured.samples[name], COMPOSED) for name in (one_query, "documents")
    )
    search_ms, answer_ms = (np.percentile(one, 99) * 1e3 for one in (search, search + read))
    return figures | {
        "one_shard_search_p99_ms": round(float(search_ms), 3),
        "one_shard_answer_p99_ms": round(float(answer_ms), 3),
        "first_round_over_one": round(float(figures["first_round_p99_ms"] / search_ms), 3),
        "answer_over_one": round(float(figures["p99_ms"] / answer_ms), 3),
    }


def one_level(measured: Measured, shards: int, clients: int = 1) -> dict[str, Any]:
    count = max(questions_of(shards), 4 * clients)
    run = simulate(ask(cluster(measured, shards), count, clients), counts_cpu=True)
    return run.figures()


def two_levels(measured: Measured, shards: int, clients: int = 1) -> dict[str, Any]:
    middles = middles_of(shards)
    each = -(-shards // middles)
    samples, middle_cpu_ms = middle_times(measured, each, middles)
    top = Cluster(middles, samples, measured.call_cost(middles))
    run = simulate(ask(top, max(questions_of(middles), 4 * clients), clients), counts_cpu=True)
    figures = run.figures() | {"middles": middles, "shards_each": each}
    if clients == 1:
        all_ms = figures["router_cpu_ms"] + middles * middle_cpu_ms
        figures |= {
            "middle_cpu_ms": round(middle_cpu_ms, 3),
            "all_routers_cpu_ms": round(all_ms, 3),
        }
    return figures


def middle_times(measured: Measured, shards: int, middles: int) -> tuple[Samples, float]:
    """How long calls to one of ``middles`` routers of ``shards`` each take, the call included.

    And the processor time in ms of one that brings one query.
    """
    calls = _middle_calls(cluster(measured, shards), middles)
    seconds, cpu_ms = simulate(calls, counts_cpu=True)
    random = np.random.default_rng(SEED)
    ping = random.choice(measured.samples["ping"], COMPOSED)
    composed = {
        name: random.choice(np.array(found), COMPOSED) + ping for name, found in seconds.items()
    }
    return composed, cpu_ms


async def _middle_calls(shards: Cluster, middles: int) -> tuple[dict[str, list[float]], float]:
    loop = simulated_loop()
    with loop.elsewhere():
        links = shards.links(Traffic())
        middle = MiddleRouter(0, FanOut(links), range(len(links)), shards.dimension)
        vectors = iter(shards.questions(sum(n * calls for n, calls in MIDDLE_CALLS.items())))
    seconds: dict[str, list[float]] = {"documents": []}
    cpu_s = 0.0
    for queries in BATCHES:
        seconds[f"search_{queries}"] = []
        for _ in range(MIDDLE_CALLS[queries]):
            with loop.elsewhere():
                asked = [
                    asked_of_each(SearchOptions(vector=next(vectors)), middles, Deadline.after(60))
                    for _ in range(queries)
                ]
                frame = pack_queries(asked)
            started_s, cpu_before_s = time.monotonic(), loop.cpu_s
            answer = await middle.searched("", frame)
            seconds[f"search_{queries}"].append(time.monotonic() - started_s)
            if queries > 1:
                continue
            cpu_s += loop.cpu_s - cpu_before_s
            with loop.elsewhere():
                (best,) = unpack_candidates(answer)
                assert isinstance(best, Candidates), best
                rows = best.rows[:1].tolist()  # ten hits lie on as many of the middle routers
                read = pack_reads([Read(best.origin, rows, deadline=Deadline.after(60.0))])
            started_s = time.monotonic()
            await middle.read("", read)
            seconds["documents"].append(time.monotonic() - started_s)
    return seconds, cpu_s / MIDDLE_CALLS[1] * 1e3


def with_stalls(measured: Measured) -> Measured:
    """With ``search_loaded_stalls``, which is made up."""
    random = np.random.default_rng(SEED)
    seconds = random.choice(measured.samples["search_loaded"], COMPOSED)
    seconds[: round(COMPOSED * STALLS_SHARE)] += STALL_S
    samples = {**measured.samples, "search_loaded_stalls": seconds}
    return dataclasses.replace(measured, samples=samples)


def measure(measured: Measured) -> dict[str, Any]:
    tails: dict[str, Any] = {}
    for one_query in TAILS:
        for join in (first_replica, hedged):
            name = f"{one_query}_hedged" if join is hedged else one_query
            tails[name] = {n: waiting(measured, n, one_query, join) for n in LARGE_SIZES}
            _log(name, tails[name])
    levels: dict[str, dict[int, Any]] = {"one_level": {}, "two_levels": {}}
    for shards in SIZES:
        levels["one_level"][shards] = one_level(measured, shards)
        levels["two_levels"][shards] = two_levels(measured, shards)
        _log(shards, levels["one_level"][shards], levels["two_levels"][shards])
    busy = {
        n: {
            "one_level": one_level(measured, n, CLIENTS),
            "two_levels": two_levels(measured, n, CLIENTS),
        }
        for n in LARGE_SIZES
    }
    _log(busy)
    encode_ms = np.percentile(measured.samples["encode"], [50, 99]) * 1e3
    return {
        "dimension": DIMENSION,
        "search_cpu_us_a_call": {n: round(measured.call_cost(n).search_s * 1e6, 1) for n in SIZES},
        "ray_cpu_us_a_call": {n: round(measured.call_cost(n).other_s * 1e6, 1) for n in SIZES},
        "a_text_adds_ms": dict(zip(("p50", "p99"), encode_ms.round(3).tolist(), strict=True)),
        "waiting": tails,
        **levels,
        "two_levels_pay_from": next(
            (
                n
                for n in SIZES
                if levels["two_levels"][n]["p50_ms"] < levels["one_level"][n]["p50_ms"]
            ),
            None,
        ),
        "busy": busy,
    }


def _log(*said: object) -> None:
    print(*said, file=sys.stderr, flush=True)


def plot(result: dict[str, Any], path: Path) -> None:
    """p50 and p99 by the number of shards."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for kind, colour in (("one_level", "tab:blue"), ("two_levels", "tab:orange")):
        sizes = list(result[kind])
        for key, style in (("p50_ms", "-"), ("p99_ms", ":")):
            values = [result[kind][size][key] for size in sizes]
            label = f"{kind.replace('_', ' ')}, {key[:3]}"
            axes.plot(sizes, values, style, color=colour, marker=".", label=label)
    axes.set(xscale="log", yscale="log", xlabel="shards", ylabel="answer, ms (simulated)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    settle()
    result = measure(with_stalls(Measured.read()))
    write_result(RESULT, result)
    plot(result, RESULT.with_suffix(".svg"))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
