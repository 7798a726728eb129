"""One partition of the index: store + bits + funnel. Knows nothing of Ray, HTTP or models.

The funnel of a query: Hamming distance keeps some hundreds of rows, the fp32 query against their ±1
codes orders them and says how many are worth reading, and only those are read from the disk as
int8.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shard_worker.adaptive import noise, reads
from shard_worker.clustering import lists_for
from shard_worker.codes import Calibration, asymmetric_scores, best_first
from shard_worker.errors import BitsiftError, Corrupt, NotFound, StorageFull
from shard_worker.index import BinaryIndex, Pool, open_index
from shard_worker.layout import (
    SHARD_FILE,
    STORE_FOLDER,
    FolderLock,
    check_identity,
    read_identity,
    sync_folder,
    write_identity,
)
from shard_worker.store import Store
from shard_worker.tuning import QUERIES as TUNING_QUERIES
from shard_worker.tuning import choose_nprobe, read_tuning, scan_seconds_per_row, write_tuning
from shard_worker.types import (
    CANDIDATES_FIXED,
    POOL_FACTOR,
    Candidates,
    Document,
    Documents,
    Mode,
    Outcome,
    Query,
    ShardSettings,
    ShardIdentity,
    ShardStatus,
)

POOL_ADAPTIVE, POOL_PER_HIT = 800, 16
"""Rows that the Hamming stage keeps for a query whose reads are not fixed. Against 400, titles and
XQuAD's questions asked of 28,672 WordNet glosses gain 0.010 recall@10, the judged sets nothing;
sorting them costs 0.1 ms more."""
GROWTH_MAX = 0.1
"""Lists are made anew when the rows beside them, which are always scanned, are a larger share."""
_EXHAUSTIVE_SLACK = 8
"""Rows kept beyond ``candidates`` while scanning in float32, before the exact cut in float64."""


class Shard:
    """An open shard directory. One writer at a time; searches and reads at any time."""

    def __init__(
        self,
        folder: Path,
        calibration: Calibration,
        expected: ShardIdentity,
        settings: ShardSettings = ShardSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """Open the shard in ``folder``, replaying into RAM what its bits snapshot lacks.

        Raises NotFound when there is no shard, FormatMismatch when it is another one, Corrupt when
        its store is not what ``shard.json`` promises, Unavailable when another process has it open.
        """
        self.folder = folder
        self.identity = read_identity(folder)
        check_identity(folder, self.identity, expected)
        self._calibration = calibration
        self._settings = settings
        self._training = threading.Lock()
        self._lock = FolderLock(folder)
        self._writing = threading.Lock()
        self._corrupt_rows: set[int] = set()
        try:
            self._store = self._open_store()
            self._index = BinaryIndex(self.identity.width // 8, self.identity.index_uuid)
            open_index(folder, self._index, self._store.rows, self._bits_from_store)
            self._index.mark_dead(self._store.dead())
            self._nprobe = self._opened_lists()
            self._scan_s_per_row = scan_seconds_per_row(self._index)
        except BaseException:
            self._lock.release()
            raise

    @staticmethod
    def create(folder: Path, identity: ShardIdentity) -> None:
        """Make an empty shard directory; ``shard.json`` comes last and makes it valid."""
        folder.mkdir(parents=True, exist_ok=True)
        Store(folder / STORE_FOLDER, identity.width).close()
        sync_folder(folder / STORE_FOLDER)
        write_identity(folder, identity)
        sync_folder(folder.parent)

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / SHARD_FILE).exists()

    def close(self) -> None:
        self._store.close()
        self._lock.release()

    def _open_store(self) -> Store:
        """A zero-length or missing data file would open as an empty store: refuse it first."""
        path = self.folder / STORE_FOLDER / "data.mdb"
        if not path.exists() or path.stat().st_size == 0:
            raise Corrupt(f"{path} is missing or empty; restore it from a backup")
        return Store(self.folder / STORE_FOLDER, self.identity.width)

    def _bits_from_store(self, first: int, rows: int) -> Iterator[NDArray[np.uint8]]:
        for _, codes in self._store.scan_codes(first, rows):
            yield self._calibration.bits(codes)

    # --- lists -----------------------------------------------------------------------------

    def wants_training(self) -> bool:
        """Whether there are enough rows for lists, and many more than the lists were made for."""
        rows, listed = len(self._index), self._index.listed
        clustered = 0 if listed is None else len(listed)
        grown = rows - clustered > GROWTH_MAX * clustered
        return rows >= self._settings.train_rows_min and grown and not self._training.locked()

    def train(self) -> None:
        """Group the bits of all rows into lists, for approximate searches; minutes for millions.

        Searches and writes go on meanwhile; the new lists take the place of the old bits at once.
        Raises StorageFull when the file of lists does not fit on the disk.
        """
        with self._training:
            if len(self._index) == 0:
                return
            try:
                listed = self._index.write_lists(self.folder, lists_for(len(self._index)))
            except OSError as error:
                raise StorageFull(f"{self.folder}: no approximate index ({error})") from error
            with self._writing:
                self._index.adopt(listed, self._store.dead())
                self._index.save(self.folder)
            self._nprobe = self._opened_lists()
            self._scan_s_per_row = scan_seconds_per_row(self._index)

    def _opened_lists(self) -> int:
        """Take the lists into RAM; the nprobe that was measured for them, or is now."""
        listed = self._index.listed
        if listed is None:
            return 0
        listed.hold()
        nprobe = read_tuning(self.folder, len(listed))
        if nprobe is None:
            nprobe, curve = choose_nprobe(self._index, self._calibration, self._some_vectors())
            write_tuning(self.folder, len(listed), nprobe, curve)
        return nprobe

    def _some_vectors(self) -> NDArray[np.float32]:
        """Decoded unit vectors of random rows, float32 (n, width), to tune with."""
        count = min(TUNING_QUERIES, self._store.rows)
        rows = np.random.default_rng(self._store.rows).choice(self._store.rows, count, False)
        codes, intact = self._store.read_codes(rows)
        vectors = self._calibration.decode(codes[intact])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    # --- the funnel ------------------------------------------------------------------------

    def search(self, queries: Sequence[Query]) -> list[Candidates]:
        """The candidates of each query, one ``Candidates`` each, in order.

        Queries of one kind share one pass over the bits, which costs less per query than one pass
        each.
        """
        answers: list[Candidates | None] = [None] * len(queries)
        scans: dict[tuple[int, int | None, int], list[int]] = {}
        for place, query in enumerate(queries):
            if query.mode is Mode.EXHAUSTIVE:
                answers[place] = self._search_exhaustive(query)
            else:
                kind = _pool_rows(query), self._lists_to_visit(query), _hits_due(query)
                scans.setdefault(kind, []).append(place)
        for (count, nprobe, enough), places in scans.items():
            vectors = np.stack([queries[place].vector for place in places])
            bits = self._calibration.query_bits(vectors)
            pools = self._index.search(bits, count, nprobe, enough)
            for place, pool in zip(places, pools, strict=True):
                answers[place] = self._narrow(queries[place], pool)
        return [answer for answer in answers if answer is not None]

    def _lists_to_visit(self, query: Query) -> int | None:
        """How many lists are probed; None for an exact scan."""
        affordable = self.exact_scan_ms <= self._settings.exact_budget_ms
        if query.mode is Mode.EXACT or (query.mode is Mode.AUTO and affordable):
            return None
        return None if self._index.listed is None else query.nprobe or self._nprobe

    @property
    def exact_scan_ms(self) -> float:
        """What an exact scan of all rows takes, from a measurement when the shard was opened."""
        return self._scan_s_per_row * len(self._index) * 1e3

    def _narrow(self, query: Query, pool: Pool) -> Candidates:
        """Asymmetric scores choose the candidates of the pool; their int8 codes are read."""
        vector = self._calibration.centered(query.vector)
        estimates = asymmetric_scores(vector, pool.bits)
        best = best_first(estimates, pool.rows, query.candidates or len(pool))
        if query.candidates is None:
            best = best[: reads(estimates[best], noise(vector, pool.bits), query.top_k)]
        codes, intact = self._store.read_codes(pool.rows[best])
        self._count_corrupt(pool.rows[best][~intact])
        best, codes = best[intact], codes[intact]
        return Candidates(
            shard=self.identity.shard,
            rows=pool.rows[best],
            distances=pool.distances[best],
            hamming_ranks=(best + 1).astype(np.int32),
            estimates=estimates[best],
            codes=codes,
            corrupt=int((~intact).sum()),
            documents=self._likely_winners(query, pool.rows[best], codes),
        )

    def _likely_winners(
        self, query: Query, rows: NDArray[np.int64], codes: NDArray[np.int8]
    ) -> dict[int, Document]:
        """The documents of the best ``top_k`` of this shard, if they are wanted, by row."""
        if not query.with_documents:
            return {}
        best = best_first(self._calibration.scores(query.vector, codes), rows, query.top_k)
        wanted = rows[best].tolist()
        found = zip(wanted, self.documents(wanted), strict=True)
        return {row: document for row, document in found if isinstance(document, Document)}

    def _search_exhaustive(self, query: Query) -> Candidates:
        """Score every living row's int8 code: slow, the yardstick for everything else."""
        wanted = _hits_due(query)
        kept = wanted + _EXHAUSTIVE_SLACK
        folded = query.vector * self._calibration.step
        scores, rows = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        for first, codes in self._store.scan_codes(0, self._store.rows, checked=False):
            block = np.arange(first, first + len(codes), dtype=np.int64)
            scores = np.concatenate([scores, codes.astype(np.float32) @ folded])
            rows = np.concatenate([rows, block])
            alive = self._index.is_alive(rows)
            best = best_first(scores[alive], rows[alive], kept)
            scores, rows = scores[alive][best], rows[alive][best]
        codes, intact = self._store.read_codes(rows)
        self._count_corrupt(rows[~intact])
        rows, codes, corrupt = rows[intact], codes[intact], int((~intact).sum())
        exact = self._calibration.scores(query.vector, codes)
        best = best_first(exact, rows, wanted)
        zeros = np.zeros(len(best), dtype=np.int32)
        return Candidates(
            self.identity.shard, rows[best], zeros, zeros, exact[best], codes[best], corrupt
        )

    def _count_corrupt(self, rows: NDArray[np.int64]) -> None:
        self._corrupt_rows.update(rows.tolist())

    # --- documents -------------------------------------------------------------------------

    def documents(self, rows: Sequence[int]) -> list[Document | BitsiftError]:
        """The documents in ``rows``; in the place of a damaged one, the error that says so."""
        found = self._store.documents(rows)
        for row, document in zip(rows, found, strict=True):
            if isinstance(document, Corrupt):
                self._corrupt_rows.add(row)
        return found

    def document(self, document_id: str) -> Document:
        """The living document with this id. Raises NotFound or ChecksumMismatch."""
        row = self._store.find(document_id)
        if row is None:
            raise NotFound(f"there is no document with id {document_id!r}")
        (found,) = self.documents([row])
        if isinstance(found, BitsiftError):
            raise found
        return found

    def positions_of(self, ids: Sequence[str]) -> list[int | None]:
        """For each id the load position it is stored with, None where it is not stored."""
        return self._store.positions_of(ids)

    def append(self, batch: Documents, *, replace: bool = False) -> list[Outcome]:
        """Store a batch durably, then make it searchable; returns what became of each document.

        Raises StorageFull when nothing could be stored.
        """
        with self._writing:
            outcomes, stored, dead = self._store.append(batch, replace=replace)
            self._index.add(self._calibration.bits(batch.codes[stored]))
            self._index.mark_dead(dead)
        return outcomes

    def save_bits(self) -> None:
        """Write all that is only in RAM, so that the next start need not read codes or ids."""
        with self._writing:
            self._store.merge_ids()
            self._store.save_hints()
            self._index.save(self.folder)

    def status(self) -> ShardStatus:
        listed = self._index.listed
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return ShardStatus(
            shard=self.identity.shard,
            state="READY",
            rows=self._store.rows,
            documents=self._store.rows - self._store.dead_rows,
            bits_bytes=self._index.memory_bytes,
            disk_bytes=sum(path.stat().st_blocks * 512 for path in files),
            corrupt_rows_seen=len(self._corrupt_rows),
            lists=0 if listed is None else listed.lists,
            clustered_rows=0 if listed is None else len(listed),
            training=self._training.locked(),
            nprobe=self._nprobe,
            exact_scan_ms=round(self.exact_scan_ms, 3),
        )


def _hits_due(query: Query) -> int:
    """How many candidates a query gets at least, while there are rows."""
    return query.candidates or max(CANDIDATES_FIXED, query.top_k)


def _pool_rows(query: Query) -> int:
    """How many rows the Hamming stage keeps."""
    if query.candidates is None:
        return max(POOL_ADAPTIVE, POOL_PER_HIT * query.top_k)
    return query.candidates * POOL_FACTOR
