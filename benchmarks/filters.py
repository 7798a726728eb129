"""What a filter costs: searches, disk, RAM and writes.

    python -m benchmarks.filters [--rows 1000000] [--dim 384] [--folder FOLDER]

One shard of synthetic vectors in this process, with six fields of metadata, called as its actor
calls it; in benchmarks/results/filters.json:

    selectivity   for each share of rows that pass: p50 of a search with a filter that was asked
                  before (cached), with a new one (first), and without (plain), taken in turns; and
                  recall@10 against fp32 brute force over the rows that pass, next to that of
                  searches without a filter. Those that pass are independent of the vectors; or the
                  nearest to another query (topic); or the farthest from the query (far), which
                  are cut off by the score itself: the best of these are among the densest of all
    wordnet       disk and RAM that the field index adds to WordNet's glosses, a row and field:
                  part of speech, number of words, title
    writes        p50 of an upsert of one document with six fields, in turns with a shard that
                  keeps no field index; housekeeping runs beside both

``--folder`` keeps the shard, and takes it from there the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import statistics
import tempfile
import threading
import time
import tracemalloc
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.demo import CORPUS
from bitsift.cluster.sources.synthetic import (
    BLOCK_ROWS,
    SyntheticSpec,
    synthetic_block,
    synthetic_queries,
)
from bitsift.filters.forms import canonical
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.fields.index import FieldIndex
from bitsift.shard_worker.fields.recent import RecentTexts
from bitsift.shard_worker.operations import Insert, Upsert, statuses
from bitsift.shard_worker.search.precedence import lowest_priority, share_quickly
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, Candidates, Query, ShardIdentity

RESULT = Path(__file__).with_name("results") / "filters.json"
SHARES = (1.0, 0.5, 0.2, 0.1, 0.01, 0.001, 0.0001)
TURNS, WARM_UP = 60, 5
RECALL_QUERIES = 40
WRITES = 600
LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "pt", "ru", "ja", "zh", "ko")
Units = NDArray[np.float32]


# --- the shard -----------------------------------------------------------------------------------


def said_of(row: int, rows: int, far: int, topic: int) -> dict[str, Any]:
    """Six fields: ``draw`` is independent of the vector, ``far`` the rank from the query that the
    correlated filters are asked with, the farthest first, ``topic`` that from another one, the
    nearest first.
    """
    draw = (row * 7_368_787 + 13) % rows
    return {
        "draw": draw,
        "far": far,
        "topic": topic,
        "lang": LANGUAGES[int(len(LANGUAGES) * (draw / rows) ** 2)],
        "year": 1990 + draw % 37,
        "price": draw % 9_973 / 100,
    }


def documents(
    kind: type[Insert | Upsert], calibration: Calibration, units: Units, names: Sequence[str],
    metadata: Sequence[str],
) -> Insert | Upsert:  # fmt: skip
    blank, positions = [""] * len(names), [GIVEN_VECTOR_POSITION] * len(names)
    codes = calibration.quantize(units)[0]
    return kind(list(names), blank, ["a text"] * len(names), list(metadata), positions, codes)


def scores_of(spec: SyntheticSpec, queries: Units) -> NDArray[np.float32]:
    """Cosines float32 (rows, n) of all rows and ``queries`` (n, dim)."""
    scores = np.empty((spec.rows, len(queries)), dtype=np.float32)
    for first in range(0, spec.rows, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, spec.rows - first)
        scores[first : first + rows] = synthetic_block(spec, first, rows) @ queries.T
    return scores


def identity_of(spec: SyntheticSpec) -> ShardIdentity:
    return ShardIdentity(str(uuid.UUID(int=spec.rows)), 0, 1, spec.dim, spec.dim)


def opened(
    folder: Path, spec: SyntheticSpec, calibration: Calibration, ranks: NDArray[np.int64]
) -> Shard:
    """The shard of the corpus in ``folder``, made unless it is there."""
    if (folder / "shard.json").exists():
        return Shard(folder, calibration, identity_of(spec))
    Shard.create(folder, identity_of(spec))
    shard = Shard(folder, calibration, identity_of(spec))
    for first in range(0, spec.rows, BLOCK_ROWS):
        rows = range(first, min(first + BLOCK_ROWS, spec.rows))
        fields = [said_of(row, spec.rows, *ranks[row].tolist()) for row in rows]
        said = [orjson.dumps(of_row).decode() for of_row in fields]
        units = synthetic_block(spec, first, len(rows))
        statuses(shard.write([documents(Insert, calibration, units, [*map(str, rows)], said)]))
        shard.maintain()
    shard.save_bits()
    return shard


# --- searches ------------------------------------------------------------------------------------


def asked(shard: Shard, unit: NDArray[np.float32], filter_: str | None) -> tuple[Candidates, float]:
    """The answer to a search, and the milliseconds that it took."""
    text = None if filter_ is None else canonical(filter_)
    query = Query(SearchOptions(vector=unit, mode=Mode.EXACT, filter=text))
    started = time.perf_counter()
    (found,) = shard.search([query])
    return found, (time.perf_counter() - started) * 1e3


def costs(shard: Shard, queries: Units, cached: str, new: Sequence[str]) -> dict[str, Any]:
    """p50 of searches with a filter that is known, with ``new`` ones, and without, in turns."""
    took: dict[str, list[float]] = {"plain": [], "cached": [], "first": []}
    kinds: dict[str, int] = {}
    for turn in range(WARM_UP + TURNS):
        unit = queries[turn % len(queries)]
        for name, filter_ in (("plain", None), ("cached", cached), ("first", new[turn])):
            found, ms = asked(shard, unit, filter_)
            if turn >= WARM_UP:
                took[name].append(ms)
            if name == "cached" and found.plan is not None:
                kinds[found.plan.kind.value] = kinds.get(found.plan.kind.value, 0) + 1
    p50 = {name: statistics.median(of_name) for name, of_name in took.items()}
    ratios = {name: round(p50[name] / p50["plain"], 2) for name in ("cached", "first")}
    return {"p50_ms": {name: round(ms, 2) for name, ms in p50.items()}, "ratio": ratios,
            "plans": kinds}  # fmt: skip


def recall(
    shard: Shard,
    queries: Units,
    scores: NDArray[np.float32],
    filter_: str | None,
    passing: NDArray[np.int64],
) -> float:
    """recall@10 against the best of ``passing`` by fp32, mean over ``queries``."""
    shares = []
    for unit, column in zip(queries, scores.T, strict=True):
        due = min(10, len(passing))
        best = passing[np.argsort(-column[passing], kind="stable")[:due]]
        found, _ = asked(shard, unit, filter_)
        assert len(found) >= due, (filter_, len(found))
        top = found.rows[np.argsort(-found.scores, kind="stable")[:due]]
        shares.append(len(np.intersect1d(best, top)) / due)
    return round(statistics.fmean(shares), 4)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What filters on one field are asked with: the queries, and their fp32 scores (rows, n)."""

    field: str
    values: NDArray[np.int64]
    queries: Units
    scores: NDArray[np.float32]


def selectivity(shard: Shard, kinds: Sequence[Asked]) -> dict[str, Any]:
    rows = len(kinds[0].values)
    every, random = np.arange(rows), np.random.default_rng(0)
    plain = {it.field: recall(shard, it.queries, it.scores, None, every) for it in kinds}
    found: dict[str, Any] = {"recall_without_filter": plain}
    for share in SHARES:
        width = max(1, round(share * rows))
        for it in kinds:
            others = random.integers(0, 1 << 40, TURNS + WARM_UP).tolist()
            new = [f"{it.field} < {width} and not {it.field} = {-1 - other}" for other in others]
            if it.field == "draw" and share < 1:
                starts = [other % (rows - width) for other in others]
                new = [f"draw >= {start} and draw < {start + width}" for start in starts]
            filter_ = f"{it.field} < {width}"
            passing = np.flatnonzero(it.values < width)
            cost = costs(shard, it.queries, filter_, new)
            cost["recall"] = recall(shard, it.queries, it.scores, filter_, passing)
            found.setdefault(f"{share:.2%}", {})[it.field] = cost
            print(share, it.field, orjson.dumps(cost).decode(), flush=True)
    return found


# --- disk and RAM --------------------------------------------------------------------------------


def space(shard: Shard, fields: int) -> dict[str, float]:
    """Disk and RAM of the field index, a row and field, ids with it."""
    store = shard._current.store
    with store.parts.env.begin() as txn:
        said = txn.stat(store.parts.env.databases["fields"])
    pages = said["branch_pages"] + said["leaf_pages"] + said["overflow_pages"]
    tracemalloc.start()
    index = FieldIndex(store)
    ram, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.segments
    each = store.rows * fields
    return {"rows": store.rows, "fields": fields, "ram_bytes": round(ram / each, 4),
            "disk_bytes": round(pages * said["psize"] / each, 2)}  # fmt: skip


def wordnet() -> dict[str, Any]:
    """The glosses with three fields; their vectors do not matter here."""
    lines = gzip.decompress(CORPUS.read_bytes()).splitlines()
    records = [orjson.loads(line) for line in lines]
    units = normalize(np.random.default_rng(0).standard_normal((len(records), 32)), 32)
    calibration = Calibration.from_sample(units[:2_000], 32)
    identity = ShardIdentity(str(uuid.UUID(int=1)), 0, 1, 32, 32)
    said = [
        {"part": it["_id"][-1], "words": len(it["text"].split()), "title": it["title"]}
        for it in records
    ]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "shard"
        Shard.create(place, identity)
        with contextlib.closing(Shard(place, calibration, identity)) as shard:
            for first in range(0, len(records), BLOCK_ROWS):
                part = slice(first, first + BLOCK_ROWS)
                names = [it["_id"] for it in records[part]]
                metadata = [orjson.dumps(it).decode() for it in said[part]]
                insert = documents(Insert, calibration, units[part], names, metadata)
                statuses(shard.write([insert]))
                shard.maintain()
            shard.save_bits()
            return space(shard, 3)


# --- writes --------------------------------------------------------------------------------------


@contextlib.contextmanager
def kept_up(shards: Sequence[Shard]) -> Iterator[None]:
    """Housekeeping beside it, each second, at the lowest priority, as in an actor."""
    stop = threading.Event()

    def keep_up(shard: Shard) -> None:
        lowest_priority()
        while not stop.wait(1.0):
            shard.maintain()

    threads = [threading.Thread(target=keep_up, args=(shard,)) for shard in shards]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class NoFields(FieldIndex):
    """Keeps nothing: what a shard without a field index does."""

    def is_due(self) -> bool:
        return False

    def seal(self, *_: Any, **__: Any) -> None:
        """Nothing."""


class NoTexts(RecentTexts):
    def add(self, *_: Any) -> None:
        """Nothing."""


def writes(dim: int) -> dict[str, Any]:
    """Upserts of one document in turns with the same into a shard without a field index."""
    share_quickly()
    units = normalize(np.random.default_rng(1).standard_normal((WRITES, dim)), dim)
    calibration = Calibration.from_sample(units, dim)
    identity = ShardIdentity(str(uuid.UUID(int=2)), 0, 1, dim, dim)
    took: dict[str, list[float]] = {"with": [], "without": []}
    with (
        tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder,
        contextlib.ExitStack() as held,
    ):
        shards: dict[str, Shard] = {}
        for name in took:
            Shard.create(Path(folder) / name, identity)
            shard = shards[name] = Shard(Path(folder) / name, calibration, identity)
            held.callback(shard.close)
        bare = shards["without"]._current
        bare.fields = NoFields(bare.store)
        bare.fields.recent = NoTexts(lambda _: iter(()))
        held.enter_context(kept_up([*shards.values()]))
        for turn in range(12 * WRITES):
            row = turn % WRITES
            said = [orjson.dumps(said_of(turn, 1_000_000, turn, -turn)).decode()]
            upsert = documents(Upsert, calibration, units[row : row + 1], [str(turn)], said)
            for name in took if turn % 2 else reversed(took):
                started = time.perf_counter()
                statuses(shards[name].write([upsert]))
                took[name].append((time.perf_counter() - started) * 1e3)
        sealed = len(shards["with"]._current.fields.segments)
    p50 = {name: statistics.median(ms[WARM_UP:]) for name, ms in took.items()}
    p99 = {name: statistics.quantiles(ms[WARM_UP:], n=100)[98] for name, ms in took.items()}
    return {
        "upserts": 12 * WRITES,
        "segments": sealed,
        "p50_ms": {name: round(ms, 4) for name, ms in p50.items()},
        "p99_ms": {name: round(ms, 4) for name, ms in p99.items()},
        "ratio": round(p50["with"] / p50["without"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"wordnet": wordnet(), "writes": writes(options.dim)}
    print(orjson.dumps(result).decode(), flush=True)
    spec = SyntheticSpec(options.rows, options.dim)
    queries = synthetic_queries(spec, RECALL_QUERIES)
    noise = 0.02 * np.random.default_rng(2).standard_normal(queries.shape)
    near = normalize((queries[:1] + noise).astype(np.float32), spec.dim)
    other = int(np.argmin(queries @ queries[0]))
    scores = scores_of(spec, np.concatenate([queries, near]))
    of_queries, of_near = scores[:, :RECALL_QUERIES], scores[:, RECALL_QUERIES:]
    far, topic = (np.empty(spec.rows, dtype=np.int64) for _ in range(2))
    far[np.argsort(of_queries[:, 0], kind="stable")] = np.arange(spec.rows)
    topic[np.argsort(-of_queries[:, other], kind="stable")] = np.arange(spec.rows)
    draw = (np.arange(spec.rows) * 7_368_787 + 13) % spec.rows
    calibration = Calibration.from_sample(synthetic_block(spec, 0, BLOCK_ROWS), spec.dim)
    with contextlib.ExitStack() as held:
        folder = options.folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        started = time.perf_counter()
        ranks = np.stack([far, topic], axis=1)
        shard = held.enter_context(
            contextlib.closing(opened(folder / "shard", spec, calibration, ranks))
        )
        result["opened_s"] = round(time.perf_counter() - started, 1)
        result["synthetic"] = space(shard, 6)
        print(orjson.dumps(result["synthetic"]).decode(), flush=True)
        kinds = [
            Asked("draw", draw, queries, of_queries),
            Asked("topic", topic, near, of_near),
            Asked("far", far, near, of_near),
        ]
        result["selectivity"] = selectivity(shard, kinds)
    write_result(RESULT, {"rows": spec.rows, "dim": spec.dim} | result)


if __name__ == "__main__":
    main()
