"""From batches of records to rows of shards: encode where a model is asked for, quantize, route.

``IndexWorker`` is one member of the pool that encodes texts. Ready-made vectors need no pool:
``load_vectors`` stores them from inside the tasks that read them.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import ray
from numpy.typing import NDArray

from cluster.source_vectors import take_good, vectors_of
from router.document_rules import model_text
from router.encoder import Encoder
from shard_worker.codes import Calibration
from shard_worker.packing import id_keys
from shard_worker.types import Documents, Outcome

BATCHES_AHEAD = 1
"""Batches that a task has sent and not heard of while it prepares the next."""
LOADING_NICE = 10
"""A tenth of the weight of what answers; with 19 a load starves beside other programs."""
_CACHED_ROWS = 256
"""Rows quantized at a time: 1 MB of 1,024 float32, half of a core's second-level cache."""
SUMMARY_SCHEMA = pa.schema(
    [
        ("stored", pa.int64()),
        ("same", pa.int64()),
        ("clipped", pa.int64()),
        ("rejects", pa.binary()),
        ("rejected", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Work:
    """What every member of the pool is told. ``encoder`` is None for ready-made vectors."""

    calibration: dict[str, Any]
    shards: tuple[Any, ...]
    encoder: dict[str, Any] | None
    resuming: bool


def yield_to_queries() -> None:
    """Give this process, which loads, a low priority: the shards may be answering meanwhile.

    Linux keeps it for each thread; those that are started later inherit it.
    """
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread.name), LOADING_NICE)


def document_texts(records: pa.Table) -> list[str]:
    """What a model is given of each record."""
    titles, texts = records["title"].to_pylist(), records["text"].to_pylist()
    return [model_text(title, text) for title, text in zip(titles, texts, strict=True)]


class IndexWorker:
    """A Ray Data UDF: records in, one summary row out; the documents are durable by then."""

    def __init__(self, work: Work) -> None:
        self._loader = Loader(work)
        self._dimension = self._loader.calibration.dimension
        self._encoder_arguments = work.encoder
        self._encoder: Encoder | None = None

    def __call__(self, records: pa.Table) -> pa.Table:
        """Skip what is stored, encode, quantize, store; count and name what was rejected."""
        return self._loader.send(records, self._encode).summary()

    def _encode(self, good: pa.Table) -> NDArray[np.float32]:
        """The model is loaded with the first batch, not in the constructor: Ray restarts an actor
        whose constructor raised, for ever; an error in a batch ends the build and says why.
        """
        assert self._encoder_arguments is not None
        if self._encoder is None:
            self._encoder = Encoder.load(**self._encoder_arguments)
        return self._encoder.encode_documents(document_texts(good))


def load_vectors(tables: Iterator[pa.Table], work: Work) -> Iterator[pa.Table]:
    """Store tables of ready-made vectors; runs inside the tasks that read them.

    So vectors never pass through Ray's object store: int8 codes go to the shards, summaries to the
    driver. While the shards write one batch, the next one is read and quantized.
    """
    loader = Loader(work)
    dimension = loader.calibration.dimension
    sent: deque[Sent] = deque()
    for table in tables:
        sent.append(loader.send(table, lambda good: vectors_of(good, dimension)))
        if len(sent) > BATCHES_AHEAD:
            yield sent.popleft().summary()
    for batch in sent:
        yield batch.summary()


class Loader:
    """Quantizes batches of records and sends each shard its part."""

    def __init__(self, work: Work) -> None:
        yield_to_queries()
        self.calibration = Calibration.from_json(work.calibration)
        self._shards = work.shards
        self._resuming = work.resuming

    def send(self, records: pa.Table, vectors: Callable[[pa.Table], NDArray[np.float32]]) -> Sent:
        """Skip what is stored, take the vectors (n, dimension) of the rest, quantize, send."""
        rejects = _rejected(records)
        good = take_good(records, np.flatnonzero(records["reject"].is_null().to_numpy()))
        ids = good["id"].to_pylist()
        owners = shards_of(ids, len(self._shards))
        known = clipped = 0
        parts: list[tuple[NDArray[np.int64], Any]] = []
        if self._resuming and len(good):
            new, known = self._split_known(good, owners, rejects)
            good, owners = take_good(good, new), owners[new]
        if len(good):
            codes, clipped = self._quantize(vectors(good))
            good = good.drop_columns(["vector"])
            parts = self._append(good, owners, codes)
        return Sent(good, parts, rejects, known, clipped)

    def _quantize(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], int]:
        """int8 codes (n, width), some rows at a time: what lies between stays in the cache."""
        codes = np.empty((len(vectors), self.calibration.width), dtype=np.int8)
        clipped = 0
        for start in range(0, len(vectors), _CACHED_ROWS):
            rows = slice(start, start + _CACHED_ROWS)
            codes[rows], count = self.calibration.quantize(self.calibration.units(vectors[rows]))
            clipped += count
        return codes, clipped

    def _split_known(
        self, good: pa.Table, owners: NDArray[np.int64], rejects: list[dict[str, Any]]
    ) -> tuple[NDArray[np.int64], int]:
        """Places of the records that no shard has, and how many it has from this very record."""
        held: dict[int, int | None] = {}
        for shard, places in _by_shard(owners):
            ids = good["id"].take(pa.array(places)).to_pylist()
            positions = ray.get(self._shards[shard].positions_of.remote(ids))
            held.update(zip(places.tolist(), positions, strict=True))
        new, known = [], 0
        for place, position in enumerate(good["position"].to_pylist()):
            if held[place] is None:
                new.append(place)
            elif held[place] == position:
                known += 1
            else:
                rejects.append(_duplicate(good, place))
        return np.array(new, dtype=np.int64), known

    def _append(
        self, good: pa.Table, owners: NDArray[np.int64], codes: NDArray[np.int8]
    ) -> list[tuple[NDArray[np.int64], Any]]:
        """(places, the shard's coming answer) for each shard that owns documents."""
        parts = []
        for shard, places in _by_shard(owners):
            part = good.take(pa.array(places))
            batch = Documents(
                ids=part["id"].to_pylist(),
                titles=part["title"].to_pylist(),
                texts=part["text"].to_pylist(),
                metadata=part["metadata"].to_pylist(),
                positions=part["position"].to_pylist(),
                codes=codes[places],
            )
            parts.append((places, self._shards[shard].append.remote(batch)))
        return parts


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A batch on its way: what was sent, each shard's places and coming answer, what was not."""

    good: pa.Table
    parts: list[tuple[NDArray[np.int64], Any]]
    rejects: list[dict[str, Any]]
    known: int
    clipped: int

    def summary(self) -> pa.Table:
        """Wait until all is durable; one row of ``SUMMARY_SCHEMA``. Raises what a shard raised."""
        counts = Counter({Outcome.SAME: self.known})
        rejects = list(self.rejects)
        for places, reference in self.parts:
            outcomes = ray.get(reference)
            counts.update(outcomes)
            if counts[Outcome.DUPLICATE]:
                rejects += [
                    _duplicate(self.good, place)
                    for place, outcome in zip(places.tolist(), outcomes, strict=True)
                    if outcome is Outcome.DUPLICATE
                ]
        row = {
            "stored": counts[Outcome.STORED],
            "same": counts[Outcome.SAME],
            "clipped": self.clipped,
            "rejects": b"".join(orjson.dumps(reject) + b"\n" for reject in rejects),
            "rejected": len(rejects),
        }
        return pa.Table.from_pylist([row], schema=SUMMARY_SCHEMA)


def shards_of(ids: Sequence[str], shards: int) -> NDArray[np.int64]:
    """``shard_of`` each id: int64 (n,)."""
    return (id_keys(ids).byteswap() % np.uint64(shards)).astype(np.int64)


def _by_shard(owners: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """(shard, places of its records) for each shard that owns any."""
    return [(int(shard), np.flatnonzero(owners == shard)) for shard in np.unique(owners)]


def _rejected(records: pa.Table) -> list[dict[str, Any]]:
    bad = records.filter(records["reject"].is_valid()).select(["file", "line", "reject"])
    return [
        {"file": row["file"], "line": row["line"], "reason": row["reject"]}
        for row in bad.to_pylist()
    ]


def _duplicate(good: pa.Table, place: int) -> dict[str, Any]:
    row = good.select(["file", "line", "id"]).slice(place, 1).to_pylist()[0]
    reason = f"duplicate id {row['id']!r}: another record has it"
    return {"file": row["file"], "line": row["line"], "reason": reason}
