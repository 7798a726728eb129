"""From batches of records to rows of shards: encode where a model is asked for, quantize, route.

``IndexWorker`` is one member of the pool that encodes texts. Precomputed embeddings need no pool:
``load_vectors`` stores them from inside the tasks that read them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitsift.cluster.ingest.chunking import Chunking
from bitsift.cluster.ingest.chunks import chunked
from bitsift.cluster.ingest.doubles import Doubles, last_of_each
from bitsift.cluster.ingest.rejects import packed_rejects, rejected
from bitsift.cluster.sources.vectors import take_good, vectors_of
from bitsift.errors import ShardUnavailable
from bitsift.router.model.blank import NO_VECTOR
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.shards.placement import Placement
from bitsift.router.shards.remote import Loading, RemoteLink
from bitsift.router.write.document_rules import model_text
from bitsift.shard_worker.codes import Calibration, bad_rows
from bitsift.shard_worker.operations import Confirm, Insert, Operation, Resume, Upsert
from bitsift.shard_worker.store.packing import content_digest
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, LIVE_POSITION
from bitsift.write_status import WriteStatus

BATCHES_AHEAD = 1
"""Batches that a task has sent and not heard of while it prepares the next."""
SHARD_AWAY_S = 60.0
"""How long a shard is waited for that died, or whose node is away; then the build ends, and goes on
when it is run again."""
SEND_AGAIN_S = 1.0
LOADING_NICE = 10
"""A tenth of the weight of what answers; with 19 a load would starve next to other programs."""
_CACHED_ROWS = 256
"""Rows quantized at a time: 1 MB of 1,024 float32, half of a core's second-level cache."""
SUMMARY_SCHEMA = pa.schema(
    [
        ("records", pa.int64()),
        ("created", pa.int64()),
        ("updated", pa.int64()),
        ("unchanged", pa.int64()),
        ("clipped", pa.int64()),
        ("merged", pa.int64()),
        ("replaced", pa.int64()),
        ("cut", pa.int64()),
        ("rejects", pa.binary()),
        ("rejected", pa.int64()),
    ]
)

_DOUBLE = (WriteStatus.UPDATED, WriteStatus.REJECTED)
"""Of a record in the place of an earlier one with its id, and of one that a later one precedes."""
_STORED_COLUMNS = ("id", "title", "text", "metadata", "position")


@dataclass(frozen=True, slots=True)
class Work:
    """What every member of the pool is told. ``encoder`` is None for precomputed embeddings.

    ``passed_by`` int64 (n,), ascending, are positions of records that later ones replace, of an
    update of a finished index; None: of a build.
    """

    calibration: dict[str, Any]
    shards: tuple[Any, ...]
    encoder: EncoderSpec | None
    resuming: bool
    chunking: Chunking | None = None
    passed_by: NDArray[np.int64] | None = None


def yield_to_queries() -> None:
    """Give this loading process a low priority: the shards may be answering queries.

    Linux keeps it for each thread; those that are started later inherit it.
    """
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # the thread has ended
            os.setpriority(os.PRIO_PROCESS, int(thread.name), LOADING_NICE)


def document_texts(records: pa.Table) -> list[str]:
    """What a model is given of each record."""
    titles, texts = records["title"].to_pylist(), records["text"].to_pylist()
    return [model_text(title, text) for title, text in zip(titles, texts, strict=True)]


class IndexWorker:
    """A Ray Data UDF: records in, one summary row out; the documents are durable by then."""

    def __init__(self, work: Work) -> None:
        self._loader = loader_of(work)
        self._spec = work.encoder
        self._chunking = work.chunking
        self._encoder: Encoder | None = None
        self._cut = 0

    def __call__(self, records: pa.Table) -> pa.Table:
        """Skip what is stored, encode, quantize, store; count and name what was rejected."""
        if self._chunking is None:
            return self._stored(records, len(records))
        passages = chunked(records, self._loaded().tokens, self._chunking)
        # Of a few books there may be many: as many are encoded together as there are records.
        starts = range(0, len(passages), max(1, len(records)))
        parts = (passages.slice(start, len(records)) for start in starts)
        counted = [len(records), *[0] * (len(starts) - 1)]
        return pa.concat_tables(map(self._stored, parts, counted))

    def _stored(self, records: pa.Table, counted: int) -> pa.Table:
        self._cut = 0
        sent = self._loader.send(records, self._encode)
        return sent.summary(counted, self._cut)

    def _encode(self, good: pa.Table) -> NDArray[np.float32]:
        encoder, texts = self._loaded(), document_texts(good)
        self._cut += encoder.tokens.count_cut(texts) or 0
        return encoder.encode_documents(texts)

    def _loaded(self) -> Encoder:
        """The model is loaded with the first batch, not in the constructor: Ray restarts an actor
        whose constructor raised, for ever; an error in a batch ends the build and says why.
        """
        assert self._spec is not None
        if self._encoder is None:
            self._encoder = self._spec.load()
        return self._encoder


def load_vectors(tables: Iterator[pa.Table], work: Work) -> Iterator[pa.Table]:
    """Store tables of precomputed embeddings; runs inside the tasks that read them.

    So vectors never pass through Ray's object store: int8 codes go to the shards, summaries to the
    driver. While the shards write one batch, the next one is read and quantized.
    """
    loader = loader_of(work)
    dimension = loader.calibration.dimension
    sent: deque[Sent] = deque()
    counted: deque[int] = deque()
    for table in tables:
        sent.append(loader.send(table, lambda good: vectors_of(good, dimension)))
        counted.append(len(table))
        if len(sent) > BATCHES_AHEAD:
            yield sent.popleft().summary(counted.popleft())
    for batch, records in zip(sent, counted, strict=True):
        yield batch.summary(records)


class PatientLoading:
    """An operation of a bulk load, sent again while its shard is away: it changes nothing when it
    comes a second time. Ray starts a shard again that died, and one whose node comes back.
    """

    def __init__(self, link: RemoteLink, operation: Operation) -> None:
        self._link = link
        self._operation = operation
        self._loading: Loading | None = None
        with contextlib.suppress(ShardUnavailable):
            self._loading = link.load(operation)

    def statuses(self) -> list[WriteStatus]:
        """Those of its documents, when they are durable. Raises ShardUnavailable after a while."""
        deadline_s = time.monotonic() + SHARD_AWAY_S
        while True:
            try:
                loading = self._loading or self._link.load(self._operation)
                return loading.statuses()
            except ShardUnavailable:
                self._loading = None
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(SEND_AGAIN_S)


Part = tuple[NDArray[np.int64], PatientLoading]


class Loader:
    """Quantizes batches of records and sends each shard its part."""

    def __init__(self, work: Work) -> None:
        yield_to_queries()
        self.calibration = Calibration.from_json(work.calibration)
        self._links = [RemoteLink(number, actor) for number, actor in enumerate(work.shards)]
        self._placement = Placement(len(work.shards))
        self._resuming = work.resuming

    def send(self, records: pa.Table, vectors: Callable[[pa.Table], NDArray[np.float32]]) -> Sent:
        """Skip what is stored, take the vectors (n, dimension) of the rest, quantize, send."""
        rejects = rejected(records)
        good = take_good(records, np.flatnonzero(records["reject"].is_null().to_numpy()))
        doubles = Doubles()
        known = clipped = 0
        parts: list[Part] = []
        if len(last := last_of_each(good)) < len(good):
            doubles.add(good, np.setdiff1d(np.arange(len(good)), last))
            good = take_good(good, last)
        if self._resuming and len(good):
            new, taken = self._split_known(good)
            doubles.add(good, taken)
            known = len(good) - len(new) - len(taken)
            good = take_good(good, new)
        if len(good):
            good, parts, clipped = self._store(good, vectors(good), rejects)
        return Sent(good, parts, rejects, doubles, known, clipped)

    def _store(
        self, good: pa.Table, vectors: NDArray[np.float32], rejects: list[dict[str, Any]]
    ) -> tuple[pa.Table, list[Part], int]:
        """Send what has a vector: those records, their writes, and how many values clipped. The
        others are added to ``rejects``.
        """
        bad = bad_rows(vectors)
        if bad.any():
            rejects += [_no_vector(good, place) for place in np.flatnonzero(bad).tolist()]
            good, vectors = take_good(good, np.flatnonzero(~bad)), vectors[~bad]
        codes, clipped = self._quantize(vectors)
        good = good.drop_columns(["vector"])
        return good, self._insert(good, codes), clipped

    def _quantize(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], int]:
        """int8 codes (n, width), some rows at a time: what lies between stays in the cache."""
        codes = np.empty((len(vectors), self.calibration.width), dtype=np.int8)
        clipped = 0
        for start in range(0, len(vectors), _CACHED_ROWS):
            rows = slice(start, start + _CACHED_ROWS)
            codes[rows], count = self.calibration.codes(vectors[rows])
            clipped += count
        return codes, clipped

    def _split_known(self, good: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the records to store, and of those whose id another document has for good. The
        others were stored from these very records.
        """
        asked = [
            (places, PatientLoading(self._links[shard], Resume(ids, positions)))
            for shard, places, (ids, positions) in self._columns(good, "id", "position")
        ]
        new, taken = list[int](), list[int]()
        for places, loading in asked:
            for place, status in zip(places.tolist(), loading.statuses(), strict=True):
                if status is WriteStatus.MISSING:
                    new.append(place)
                elif status is WriteStatus.REJECTED:
                    taken.append(place)
        return np.array(sorted(new), dtype=np.int64), np.array(taken, dtype=np.int64)

    def _columns(
        self, good: pa.Table, *names: str
    ) -> Iterator[tuple[int, NDArray[np.int64], list[list[Any]]]]:
        """(shard, places of its records, their columns) for each shard that owns any."""
        columns = good.select(names)
        for shard, places in self._placement.by_owner(good["id"].to_pylist()).items():
            part = columns.take(pa.array(places))
            yield shard, places, [part[name].to_pylist() for name in names]

    def _insert(self, good: pa.Table, codes: NDArray[np.int8]) -> list[Part]:
        """The places that each shard owns, and its write of them, under way."""
        parts = []
        for shard, places, columns in self._columns(good, *_STORED_COLUMNS):
            write = self._written(columns, codes[places])
            parts.append((places, PatientLoading(self._links[shard], write)))
        return parts

    def _written(self, columns: list[list[Any]], codes: NDArray[np.int8]) -> Operation:
        ids, titles, texts, metadata, positions = columns
        return Insert(ids, titles, texts, metadata, positions, codes)


class Updater(Loader):
    """Stores records in the place of what a finished index has under their ids."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        assert work.passed_by is not None
        self._passed_by = work.passed_by
        self._has_model = work.encoder is not None

    def send(self, records: pa.Table, vectors: Callable[[pa.Table], NDArray[np.float32]]) -> Sent:
        """Encode and send what changed: by content, or, of own vectors, by content and code."""
        rejects, doubles, parts = rejected(records), Doubles(), list[Part]()
        good = take_good(records, np.flatnonzero(records["reject"].is_null().to_numpy()))
        late = np.isin(good["position"].to_numpy(), self._passed_by)
        doubles.add(good, np.flatnonzero(late))
        good = take_good(good, np.flatnonzero(~late))
        known = clipped = 0
        if self._has_model and len(good):
            changed = self._changed(good)
            known = len(good) - len(changed)
            good = take_good(good, changed)
        if len(good):
            good, parts, clipped = self._store(good, vectors(good), rejects)
        return Sent(good, parts, rejects, doubles, known, clipped, doubled=())

    def _changed(self, good: pa.Table) -> NDArray[np.int64]:
        """Places of the records whose content no shard has."""
        names, asked = ("id", "title", "text", "metadata"), []
        for shard, places, (ids, *parts) in self._columns(good, *names):
            digests = [content_digest(*part) for part in zip(*parts, strict=True)]
            asked.append((places, PatientLoading(self._links[shard], Confirm(ids, digests))))
        changed = [
            place
            for places, loading in asked
            for place, status in zip(places.tolist(), loading.statuses(), strict=True)
            if status is not WriteStatus.UNCHANGED
        ]
        return np.array(sorted(changed), dtype=np.int64)

    def _written(self, columns: list[list[Any]], codes: NDArray[np.int8]) -> Operation:
        ids, titles, texts, metadata, _ = columns
        position = LIVE_POSITION if self._has_model else GIVEN_VECTOR_POSITION
        return Upsert(ids, titles, texts, metadata, [position] * len(ids), codes)


def loader_of(work: Work) -> Loader:
    """That of a build, or of an update."""
    return Loader(work) if work.passed_by is None else Updater(work)


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A batch on its way: what was sent, each shard's places and its write, what was not sent."""

    good: pa.Table
    parts: list[Part]
    rejects: list[dict[str, Any]]
    doubles: Doubles
    known: int
    clipped: int
    doubled: tuple[WriteStatus, ...] = _DOUBLE
    """What is said of records whose id another one has."""

    def summary(self, records: int, cut: int = 0) -> pa.Table:
        """Wait until all is durable; one row of ``SUMMARY_SCHEMA``. Raises what a shard raised.

        It stands for so many ``records``. ``cut`` texts were longer than the model reads.
        """
        counts = Counter({WriteStatus.UNCHANGED: self.known})
        for places, loading in self.parts:
            statuses = loading.statuses()
            counts.update(statuses)
            pairs = zip(places.tolist(), statuses, strict=True)
            self.doubles.add(
                self.good, [place for place, status in pairs if status in self.doubled]
            )
        row = {
            "records": records,
            "created": counts[WriteStatus.CREATED],
            "updated": 0 if self.doubled else counts[WriteStatus.UPDATED],
            "unchanged": counts[WriteStatus.UNCHANGED],
            "clipped": self.clipped,
            "merged": self.doubles.merged,
            "replaced": self.doubles.replaced,
            "cut": cut,
            "rejects": packed_rejects(self.rejects),
            "rejected": len(self.rejects),
        }
        return pa.Table.from_pylist([row], schema=SUMMARY_SCHEMA)


def _no_vector(good: pa.Table, place: int) -> dict[str, Any]:
    row = good.select(["file", "line"]).slice(place, 1).to_pylist()[0]
    return {**row, "reason": NO_VECTOR}
