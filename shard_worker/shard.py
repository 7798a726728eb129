"""One partition of the index: store + bits + funnel. Knows nothing of Ray, HTTP or models.

The funnel of a query: Hamming distance over all bits keeps 10 x candidates rows, the fp32 query
against their ±1 codes keeps ``candidates``, and only those are read from the disk as int8.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shard_worker.codes import Calibration, asymmetric_scores, best_first
from shard_worker.errors import BitsiftError, Corrupt, NotFound
from shard_worker.index import BinaryIndex, open_index
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
from shard_worker.types import (
    CANDIDATES_FIXED,
    POOL_FACTOR,
    Candidates,
    Document,
    Documents,
    Mode,
    Outcome,
    Query,
    ShardIdentity,
    ShardStatus,
)

_EXHAUSTIVE_SLACK = 8
"""Rows kept beyond ``candidates`` while scanning in float32, before the exact cut in float64."""


class Shard:
    """An open shard directory. One writer at a time; searches and reads at any time."""

    def __init__(self, folder: Path, calibration: Calibration, expected: ShardIdentity) -> None:
        """Open the shard in ``folder``, replaying into RAM what its bits snapshot lacks.

        Raises NotFound when there is no shard, FormatMismatch when it is another one, Corrupt when
        its store is not what ``shard.json`` promises, Unavailable when another process has it open.
        """
        self.folder = folder
        self.identity = read_identity(folder)
        check_identity(folder, self.identity, expected)
        self._calibration = calibration
        self._lock = FolderLock(folder)
        self._writing = threading.Lock()
        self._corrupt_rows: set[int] = set()
        try:
            self._store = self._open_store()
            self._index = BinaryIndex(self.identity.width // 8, self.identity.index_uuid)
            open_index(folder, self._index, self._store.rows, self._bits_from_store)
            self._index.mark_dead(self._store.dead())
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

    # --- the funnel ------------------------------------------------------------------------

    def search(self, queries: Sequence[Query]) -> list[Candidates]:
        """The candidates of each query, one ``Candidates`` each, in order.

        Queries of the same ``candidates`` share one pass over the bits, which costs less per query
        than one pass each.
        """
        answers: list[Candidates | None] = [None] * len(queries)
        scans: dict[int, list[int]] = {}
        for place, query in enumerate(queries):
            if query.mode is Mode.EXHAUSTIVE:
                answers[place] = self._search_exhaustive(query)
            else:
                scans.setdefault(query.candidates or CANDIDATES_FIXED, []).append(place)
        for candidates, places in scans.items():
            vectors = np.stack([queries[place].vector for place in places])
            pools = self._index.search(
                self._calibration.query_bits(vectors), candidates * POOL_FACTOR
            )
            for place, (distances, rows) in zip(places, pools, strict=True):
                answers[place] = self._narrow(queries[place], distances, rows)
        return [answer for answer in answers if answer is not None]

    def _narrow(
        self, query: Query, distances: NDArray[np.int32], rows: NDArray[np.int64]
    ) -> Candidates:
        """Asymmetric scores choose ``candidates`` of the pool; their int8 codes are read."""
        estimates = asymmetric_scores(query.vector, self._index.bits_of(rows))
        best = best_first(estimates, rows, query.candidates or CANDIDATES_FIXED)
        codes, intact = self._store.read_codes(rows[best])
        self._count_corrupt(rows[best][~intact])
        best = best[intact]
        return Candidates(
            shard=self.identity.shard,
            rows=rows[best],
            distances=distances[best],
            hamming_ranks=(best + 1).astype(np.int32),
            estimates=estimates[best],
            codes=codes[intact],
            corrupt=int((~intact).sum()),
        )

    def _search_exhaustive(self, query: Query) -> Candidates:
        """Score every living row's int8 code: slow, the yardstick for everything else."""
        wanted = query.candidates or max(CANDIDATES_FIXED, query.top_k)
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
        """Write the bits snapshot, so that the next start need not read the codes."""
        with self._writing:
            self._index.save(self.folder)

    def status(self) -> ShardStatus:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return ShardStatus(
            shard=self.identity.shard,
            state="READY",
            rows=self._store.rows,
            documents=self._store.rows - self._store.dead_rows,
            bits_bytes=self._index.memory_bytes,
            disk_bytes=sum(path.stat().st_blocks * 512 for path in files),
            corrupt_rows_seen=len(self._corrupt_rows),
        )
